"""Precision follows the hardware: what a recipe leaves open is derived from the GPU, each value with its rule."""

from __future__ import annotations

from typing import Any

HALF = {"bf16": "bfloat16", "fp16": "float16"}


def derive(values: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Values that the recipe leaves open -> `(value, rule)`; dotted keys.

    bfloat16 where the GPU computes in it, float16 with float32 trainable weights on older CUDA GPUs (gradient scaling needs
    them: PyTorch's GradScaler refuses float16 gradients), float32 elsewhere. The 4-bit compute type follows.
    """
    gpu, training = values.get("gpu") or {}, values.get("training") or {}
    model, quantization = values.get("model") or {}, values.get("quantization")
    out: dict[str, tuple[Any, str]] = {}

    kind, name = gpu.get("kind", "cuda"), gpu.get("name", "this GPU")
    if training.get("use_cpu") is None:
        out["training.use_cpu"] = (kind == "cpu", f"the chosen GPU is {name}")
    mode, reason = _mode(training, gpu)
    for key in ("bf16", "fp16"):
        if training.get(key) is None:
            out[f"training.{key}"] = (key == mode, reason)

    compute = HALF.get(mode, "float32")
    full = values.get("peft") is None
    if model.get("dtype", "auto") in (None, "auto"):
        if full and compute != "float32":
            out["model.dtype"] = ("float32", f"full fine-tuning: small updates would round away in {compute} weights")
        else:
            out["model.dtype"] = (compute, f"the training precision: {reason}")
    if quantization and quantization.get("load_in_4bit") and quantization.get("bnb_4bit_compute_dtype") is None:
        out["quantization.bnb_4bit_compute_dtype"] = (compute, f"the training precision: {reason}")
    if model.get("attn_implementation", "auto") in (None, "auto"):
        out["model.attn_implementation"] = (
            "sdpa",
            "PyTorch's own attention: there on every device, exact for packed rows too",
        )
    return out


def trainable_dtype(training: dict[str, Any]) -> str | None:
    """Type that trainable weights must have: `float32` under fp16, None (as the library makes them) otherwise."""
    return "float32" if training.get("fp16") else None


def _mode(training: dict[str, Any], gpu: dict[str, Any]) -> tuple[str, str]:
    """`(bf16|fp16|float32, reason)`."""
    name = gpu.get("name", "this GPU")
    for key in ("bf16", "fp16"):
        if training.get(key):
            return key, f"the recipe sets training.{key}"
    if gpu.get("kind", "cuda") != "cuda":
        return "float32", "half precision is for CUDA GPUs"
    if training.get("bf16") is False and training.get("fp16") is False:
        return "float32", "the recipe switches bf16 and fp16 off"
    if gpu.get("bf16") and training.get("bf16") is None:
        return "bf16", f"{name} computes in bfloat16"
    if training.get("fp16") is False:
        return "float32", "the recipe switches fp16 off" + ("" if gpu.get("bf16") else f" and {name} has no bfloat16")
    if gpu.get("bf16"):
        return "fp16", "the recipe switches bf16 off"
    if gpu.get("bf16") is None:
        return "fp16", f"it is unknown here whether {name} computes in bfloat16; float16 works on every CUDA GPU"
    return "fp16", f"{name} has no bfloat16"
