"""Which GPU layer stands for the machine that we are on."""

from __future__ import annotations

import re
from typing import Any

from nothing_tune import discovery
from nothing_tune.recipe.library import library_root, names
from nothing_tune.recipe.reader import read_file


def this_machine() -> dict[str, Any]:
    """`{name, why, facts}`: the GPU layer for this machine, why, and for the generic `cuda` layer the facts that NVML gives."""
    gpu = discovery.find_gpu()
    if gpu is None:
        if discovery.has_mps():
            return {"name": "mps", "why": "this is a Mac with Apple silicon", "facts": {}}
        return {"name": "cpu", "why": "no GPU was found on this machine", "facts": {}}
    return match(gpu)


def match(gpu: discovery.Gpu) -> dict[str, Any]:
    """As `this_machine`, for a GPU: the layer whose `vendor_names` hold its name and whose memory is nearest, else `cuda`."""
    best: tuple[float, str] | None = None
    for name in names("gpus"):
        facts = read_file(library_root() / "gpus" / f"{name}.yaml")[0].get("gpu") or {}
        if gpu.vendor_name in (facts.get("vendor_names") or ()):
            away = abs(float(facts.get("memory_gb") or gpu.memory_gb) - gpu.memory_gb) / gpu.memory_gb
            if best is None or away < best[0]:
                best = (away, name)
    if best and best[0] < 0.15:
        return {"name": best[1], "why": f"the driver says {gpu.vendor_name}", "facts": {}}
    major = int(gpu.compute_capability.split(".")[0])
    facts = {
        "slug": re.sub(r"[^a-z0-9]+", "-", gpu.vendor_name.lower()).strip("-"),
        "memory_gb": gpu.memory_gb,
        "compute_capability": gpu.compute_capability,
        "bf16": major >= 8,
        "flash_attention": major >= 8,
    }
    return {"name": "cuda", "why": f"the driver says {gpu.vendor_name}, which has no layer of its own", "facts": facts}
