"""The settings that need less memory, one lever each, with what it costs in speed and quality. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nothing_tune.plan.architecture import Shape
from nothing_tune.plan.memory.setting import checkpoints
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import Rows

Applied = tuple[Plan, tuple[str, ...], str]
Lever = Callable[[Shape, Plan, Rows], "Applied | None"]
"""From a plan to the one with the lever pulled, the words that do it and what it costs; None where it is pulled, or does not fit
the plan."""


def length_of(plan: Plan, rows: Rows) -> int:
    """Tokens of the longest row that a step may see."""
    limit = plan.training.get("max_length") or (plan.values.get("training") or {}).get("max_length")
    if plan.training.get("packing"):
        return int(limit or rows.longest or 1024)
    known = [int(n) for n in (rows.longest, limit) if n]
    return min(known) if known else 1024


def with_(plan: Plan, **training: Any) -> Plan:
    """`plan` with other keyword arguments of SFTConfig."""
    return replace(plan, training={**plan.training, **training})


def words_of(**training: Any) -> tuple[str, ...]:
    """Settings of training as words of a command line."""
    return tuple(f"training.{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in training.items())


def _sdpa(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    init = plan.model.get("init") or {}
    if init.get("attn_implementation") != "eager" or any(b.softcap for b, _ in shape.blocks):
        return None
    other = replace(plan, model={**plan.model, "init": {**init, "attn_implementation": "sdpa"}})
    return (
        other,
        ("model.attn_implementation=sdpa",),
        "never writes out the scores of all pairs of tokens, and is faster",
    )


def _flash(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    init = plan.model.get("init") or {}
    if not plan.gpu.get("flash_attention") or str(init.get("attn_implementation")).startswith("flash"):
        return None
    other = replace(plan, model={**plan.model, "init": {**init, "attn_implementation": "flash_attention_2"}})
    return (
        other,
        ("model.attn_implementation=flash_attention_2",),
        "needs no mask; the flash-attn package must be installed",
    )


def _checkpointing(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    if checkpoints(plan.training):
        return None
    other = with_(plan, activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": False})
    return (
        other,
        words_of(activation_checkpointing=True),
        "computes activations again, about a quarter more time a step",
    )


def _base_half(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    init = plan.model.get("init") or {}
    half = "bfloat16" if plan.training.get("bf16") else "float16" if plan.training.get("fp16") else ""
    if not half or plan.peft is None or init.get("dtype") != "float32":
        return None
    other = replace(plan, model={**plan.model, "init": {**init, "dtype": half}})
    return (
        other,
        (f"model.dtype={half}",),
        "keeps the frozen weights in 16 bits, which loses nothing for a 16-bit model",
    )


def _optimizer(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    name = str(plan.training.get("optim") or "adamw_torch_fused")
    if "8bit" in name or name in ("sgd", "adafactor"):
        return None
    return with_(plan, optim="paged_adamw_8bit"), words_of(optim="paged_adamw_8bit"), "keeps Adam's two means in 8 bits"


def _quantised(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    if plan.quantization or not plan.peft or str(plan.peft.get("peft_type") or "LORA").upper() not in ("LORA", "IA3"):
        return None
    start = str(plan.peft.get("init_lora_weights") or "").lower()
    if start.startswith(("pissa", "olora", "loftq")):
        return None
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    compute = "bfloat16" if plan.training.get("bf16") else "float16" if plan.training.get("fp16") else "float32"
    words = tuple(f"quantization.{k}={str(v).lower()}" for k, v in nf4.items())
    other = replace(plan, quantization={**nf4, "bnb_4bit_compute_dtype": compute})
    return other, words, "stores the frozen weights in 4 bits (QLoRA); steps are somewhat slower"


def _adapter(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    if plan.peft:
        return None
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    words = (*(f"peft.{k}={v}" for k, v in lora.items()), "training.learning_rate=2e-4")
    init = plan.model.get("init") or {}
    half = "bfloat16" if plan.training.get("bf16") else "float16" if plan.training.get("fp16") else init.get("dtype")
    other = replace(plan, peft=lora, model={**plan.model, "init": {**init, "dtype": half}})
    return other, words, "trains an adapter (LoRA) instead of every weight"


def _unpacked(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    limit = plan.training.get("max_length")
    if not plan.training.get("packing") or not rows.longest or not limit:
        return None
    known = max((high - 1 for _, high, _ in rows.lengths), default=0)
    if not known or known >= int(limit):
        return None
    return (
        with_(plan, packing=False, max_length=known),
        words_of(packing=False, max_length=known),
        "rows are shorter than what is packed",
    )


def _cut(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    total = sum(n for _, _, n in rows.lengths)
    below, at = 0, None
    for _, high, count in rows.lengths:
        below += count
        if below >= 0.99 * total:
            at = high - 1
            break
    if plan.training.get("packing") or not at or at >= length_of(plan, rows):
        return None
    return with_(plan, max_length=at), words_of(max_length=at), "cuts the longest hundredth of the rows"


LEVERS: tuple[tuple[int, Lever], ...] = (
    (1, _sdpa),
    (1, _base_half),
    (2, _checkpointing),
    (2, _unpacked),
    (3, _flash),
    (4, _optimizer),
    (5, _quantised),
    (6, _cut),
    (9, _adapter),
)
"""What can be changed, with what it costs in speed and quality, from least to most; the micro batch costs `MICRO_COST`."""
MICRO_COST = 1
