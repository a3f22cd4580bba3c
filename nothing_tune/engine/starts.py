"""PiSSA and OLoRA: remembers what the adapter started from, so that a run resumes exactly and hands over plain LoRA.

Both split each base weight W into W - s B0 A0, which stays, and the adapter's start s B0 A0. The start comes from a
decomposition that need not give the same bits twice, and PEFT keeps it nowhere. It is recorded here before PEFT rounds
it, replayed when a run resumes, and subtracted from the trained adapter at the end:

    W - s B0 A0 + s B A  =  W + s [B, -B0] [A; A0]

which is a plain LoRA of twice the rank on the untouched base (PiSSA, arXiv:2404.02948, section 4; PEFT does the same
in `subtract_mutated_init`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nothing_tune.artifacts import fsync_dir
from nothing_tune.errors import ResumeRefused

FILE = "start.safetensors"
_METHODS = ("pissa_init", "olora_init")


@contextmanager
def recorded(path: Path) -> Iterator[Any]:
    """While it lasts, every PiSSA or OLoRA start that PEFT makes is kept; yields a function that writes them to `path`.

    The function takes the model, for the names, and does nothing when no start was made.
    """
    from peft.tuners.lora.layer import LoraLayer

    found: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    originals = {m: getattr(LoraLayer, m) for m in _METHODS}

    def wrap(original: Any) -> Any:
        def init(self: Any, adapter: str, *args: Any, **kwargs: Any) -> None:
            original(self, adapter, *args, **kwargs)
            found.append(
                (self, self.lora_A[adapter].weight.detach().clone(), self.lora_B[adapter].weight.detach().clone())
            )

        return init

    def write(model: Any) -> None:
        if not found:
            return
        from safetensors.torch import save_file

        names = {id(m): n for n, m in model.named_modules()}
        tensors = {}
        for layer, a, b in found:
            tensors[f"{names[id(layer)]}.lora_A.weight"] = a.cpu().contiguous()
            tensors[f"{names[id(layer)]}.lora_B.weight"] = b.cpu().contiguous()
        temp = path.with_name(f".{path.name}.tmp")
        save_file(tensors, temp, metadata={"order": json.dumps([names[id(layer)] for layer, _, _ in found])})
        with open(temp, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temp, path)
        fsync_dir(path.parent)

    try:
        for name, original in originals.items():
            setattr(LoraLayer, name, wrap(original))
        yield write
    finally:
        for name, original in originals.items():
            setattr(LoraLayer, name, original)


@contextmanager
def replayed(path: Path) -> Iterator[None]:
    """While it lasts, PEFT's PiSSA and OLoRA starts are those of `path` instead of new ones. `ResumeRefused` when they do not fit."""
    from peft.tuners.lora.layer import LoraLayer
    from safetensors import safe_open

    originals = {m: getattr(LoraLayer, m) for m in _METHODS}
    with safe_open(path, framework="pt") as handle:
        order = json.loads(handle.metadata()["order"])
        queue = iter(
            [(n, handle.get_tensor(f"{n}.lora_A.weight"), handle.get_tensor(f"{n}.lora_B.weight")) for n in order]
        )

    def init(self: Any, adapter: str, *_: Any, **__: Any) -> None:
        name, a, b = next(queue, ("too few layers", torch.empty(0), torch.empty(0)))
        if a.shape != self.lora_A[adapter].weight.shape or b.shape != self.lora_B[adapter].weight.shape:
            raise ResumeRefused(
                f"{path.name} does not fit the model ({name})", hint="resume with the settings of the run"
            )
        base = self.get_base_layer()
        weight = base.weight
        a, b = a.to(weight.device), b.to(weight.device)
        self.lora_A[adapter].weight.data = a
        self.lora_B[adapter].weight.data = b
        rest = weight.data.to(torch.float32)
        rest = rest.T if self.fan_in_fan_out else rest
        rest = rest - self.scaling[adapter] * b @ a
        base.weight.data = (rest.T if self.fan_in_fan_out else rest).to(weight.dtype)

    try:
        for name in _METHODS:
            setattr(LoraLayer, name, init)
        yield
    finally:
        for name, original in originals.items():
            setattr(LoraLayer, name, original)


def to_plain_lora(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], start: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The adapter `tensors` (PEFT's names) and its config as plain LoRA on the untouched base, of twice the rank.

    `start` holds what `recorded` wrote. Adapter weights become float32, as the start is.
    """
    out = {}
    for name, tensor in tensors.items():
        first = start.get(name)
        if first is None:
            out[name] = tensor
        elif name.endswith(".lora_A.weight"):
            out[name] = torch.cat([tensor.float(), first.float()], dim=0).contiguous()
        else:
            out[name] = torch.cat([tensor.float(), -first.float()], dim=1).contiguous()
    factor = 2**0.5 if config.get("use_rslora") else 2  # scaling is alpha / sqrt(r), or alpha / r
    changed = {
        **config,
        "init_lora_weights": True,
        "r": 2 * config["r"],
        "lora_alpha": config["lora_alpha"] * factor,
        "rank_pattern": {k: 2 * v for k, v in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {k: factor * v for k, v in (config.get("alpha_pattern") or {}).items()},
    }
    return out, changed
