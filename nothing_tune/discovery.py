"""What this machine has: its GPU, asked from the driver (NVML) in milliseconds without torch, and its memory."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it. `memory_gb` is in 10^9 bytes; `compute_capability` such as `8.9`; `count` GPUs in all."""

    vendor_name: str
    memory_gb: float
    compute_capability: str
    count: int = 1


def find_gpu() -> Gpu | None:
    """The first GPU that CUDA would use here; None where there is no NVIDIA driver, no GPU, or none is visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        count = int(pynvml.nvmlDeviceGetCount())
        if not count:
            return None
        first = visible.split(",")[0].strip() if visible else "0"
        by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
        handle = by_index(int(first)) if first.isdigit() else by_uuid(first)
        name = pynvml.nvmlDeviceGetName(handle)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(
            vendor_name=name.decode() if isinstance(name, bytes) else str(name),
            memory_gb=round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / 1e9, 1),
            compute_capability=f"{major}.{minor}",
            count=len(visible.split(",")) if visible else count,
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def has_mps() -> bool:
    """True on Macs with Apple silicon, whose GPU PyTorch reaches by MPS."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def host_memory() -> tuple[int | None, int | None]:
    """`(all, free for programs)` of this machine's memory in bytes; None where the system does not say so."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    known = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
    return known.get("MemTotal"), known.get("MemAvailable")
