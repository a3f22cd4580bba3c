"""The job behind `tune doctor`: imports the libraries for real, one after the other, and tries what a training needs.

in:  {}
out: {"type": "begin", "what": STEP}, then {"type": "found", "what": STEP, ...} or {"type": "wrong", "what": STEP, "error": ...}

Steps: torch, cuda, together, bitsandbytes, attention, kernels. A crash or a hang is told by the `begin` that nothing follows.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TextIO

from nothing_tune.engine.job import Send, answer

TOGETHER = ("transformers", "accelerate", "peft", "datasets", "trl")
"""Packages that a training has in one process; `trl.SFTTrainer` alone pulls in most of what can fail."""
SIZE = 128
"""Rows and columns of the matrices that are tried."""


def main(lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Answers the one line of `lines` (stdin) on `out` (stdout); returns the exit code."""
    return answer(_answer, lines, out)


def _answer(request: dict[str, Any], send: Send) -> None:
    if not _step("torch", _torch, send):
        return
    for name, look in (
        ("cuda", _cuda),
        ("together", _together),
        ("bitsandbytes", _bitsandbytes),
        ("attention", _attention),
        ("kernels", _kernels),
    ):
        _step(name, look, send)


def _step(name: str, look: Callable[[], dict[str, Any]], send: Send) -> bool:
    """Does one step and tells of it; whether it could be done."""
    send(type="begin", what=name)
    began = time.monotonic()
    try:
        found = look()
    except BaseException as error:  # a library may call sys.exit, too
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        package = getattr(error, "tune_package", "")
        send(
            type="wrong",
            what=name,
            error=f"{type(error).__name__}: {said}" if said else type(error).__name__,
            package=package,
        )
        return False
    send(type="found", what=name, seconds=time.monotonic() - began, **found)
    return True


def _torch() -> dict[str, Any]:
    import torch

    return {"version": torch.__version__, "threads": torch.get_num_threads()}


def _cuda() -> dict[str, Any]:
    import torch

    built = torch.version.cuda
    out: dict[str, Any] = {"built": built, "available": torch.cuda.is_available(), "cards": [], "arches": []}
    if built and not out["available"]:
        try:
            torch.cuda.init()  # says why
        except Exception as error:
            out["error"] = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not out["available"]:
        return out
    out["arches"] = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        card: dict[str, Any] = {"index": index}
        try:
            card["name"] = torch.cuda.get_device_name(index)
            card["capability"] = ".".join(map(str, torch.cuda.get_device_capability(index)))
            with torch.cuda.device(index):
                card["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
                card["free"], card["total"] = torch.cuda.mem_get_info()
                float(torch.ones(8, device=f"cuda:{index}").sum())
        except Exception as error:
            card["error"] = str(error).splitlines()[0] if str(error) else type(error).__name__
        out["cards"].append(card)
    return out


def _together() -> dict[str, Any]:
    for name in TOGETHER:
        try:
            importlib.import_module(name)
        except BaseException as error:
            error.tune_package = name  # type: ignore[attr-defined]
            raise
    from trl import SFTConfig, SFTTrainer

    loaded = (SFTConfig, SFTTrainer)  # trl imports lazily: named here, they really are
    return {"classes": [c.__name__ for c in loaded], "packages": [f"{name} {version(name)}" for name in TOGETHER]}


def _bitsandbytes() -> dict[str, Any]:
    import torch

    out: dict[str, Any] = {"cuda": torch.cuda.is_available(), "device": _device()}
    import bitsandbytes
    from bitsandbytes import cextension, functional

    library = cextension.lib
    out["version"] = bitsandbytes.__version__
    if "Mock" in type(library).__name__:
        said = (
            getattr(library, "error_msg", None)
            or getattr(library, "user_cuda_version", None)
            or "its library cannot be loaded"
        )
        out["missing"] = next((line.strip() for line in str(said).splitlines() if line.strip()), "")
        out["library"] = None
    else:
        out["library"] = str(getattr(getattr(library, "_lib", None), "_name", "") or type(library).__name__)
    try:
        original = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(_device())
        packed, state = functional.quantize_4bit(original, quant_type="nf4", compress_statistics=True)
        back = functional.dequantize_4bit(packed, state).float()
        out["relative_error"] = float((back - original).norm() / original.norm())
    except Exception as error:
        out["failed"] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return out


def _attention() -> dict[str, Any]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    device = _device()
    dtype = torch.float16 if device != "cpu" else torch.float32
    q, k, v = (
        torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(n)).to(device, dtype) for n in range(3)
    )
    got = scaled_dot_product_attention(q, k, v, is_causal=True).float()
    scores = (q.float() @ k.float().transpose(-1, -2)) / 8.0
    hidden = torch.ones(64, 64, device=device).triu(1).bool()
    want = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v.float()
    out: dict[str, Any] = {"device": device, "right": bool((got - want).abs().max() < 0.02)}
    backends = {
        "flash": "flash_sdp_enabled",
        "memory-efficient": "mem_efficient_sdp_enabled",
        "math": "math_sdp_enabled",
    }
    out["kernels"] = (
        [n for n, f in backends.items() if getattr(torch.backends.cuda, f)()] if device != "cpu" else ["cpu"]
    )
    if find_spec("flash_attn") is not None:
        try:
            out["flash_attn"] = str(importlib.import_module("flash_attn").__version__)
        except BaseException as error:
            out["flash_error"] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return out


def _kernels() -> dict[str, Any]:
    """One gradient in the type that a training would use here, against the same in float64 on the CPU."""
    import torch

    device = _device()
    half = device != "cpu" and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if half else torch.float16 if device != "cpu" else torch.float32
    made = torch.Generator().manual_seed(0)
    x, w = torch.randn(SIZE, SIZE, generator=made), torch.randn(SIZE, SIZE, generator=made)

    def gradient(device: str, dtype: Any) -> Any:
        weight = w.to(device, dtype).requires_grad_()
        (x.to(device, dtype) @ weight).square().mean().backward()
        assert weight.grad is not None
        return weight.grad.double().cpu()

    want, got = gradient("cpu", torch.float64), gradient(device, dtype)
    name = str(dtype).removeprefix("torch.")
    return {"device": device, "dtype": name, "relative_error": float((got - want).norm() / want.norm())}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
