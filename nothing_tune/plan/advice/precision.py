"""Advice on how the model computes: number types of training, base and 4-bit weights, and attention."""

from __future__ import annotations

from collections.abc import Iterator

from nothing_tune.plan.advice.facts import NOTHING_GPT, OURS, STUDIO, Advice, Facts, Rule
from nothing_tune.plan.precision import HALF

COMPUTE, DTYPE, ATTENTION = "quantization.bnb_4bit_compute_dtype", "model.dtype", "model.attn_implementation"


def fp16_with_bf16_hardware(facts: Facts) -> Iterator[Advice]:
    """bfloat16 has float32's range: gradients need no scaling, and none are lost."""
    if facts.half != "fp16" or not facts.plan.gpu.get("bf16"):
        return
    changes = ["training.fp16=false", "training.bf16=true"]
    for key in (COMPUTE, DTYPE):
        if facts.get(key) == "float16" and not facts.plan.why.get(key, "").startswith("derived"):
            changes.append(f"{key}=bfloat16")
    yield Advice(
        "fp16-with-bf16-hardware",
        "warning",
        f"training runs in fp16, and {facts.gpu} computes in bfloat16",
        "fp16 has a narrow range: the loss must be scaled and the adapter kept in float32, and a step that overflows is lost",
        tuple(changes),
        "training.fp16",
        f"{NOTHING_GPT}, why bf16; {STUDIO}, mixed precision",
    )


def bf16_without_hardware(facts: Facts) -> Iterator[Advice]:
    """A recipe that asks for bf16 on a GPU without it is an error before; processors emulate it."""
    if facts.half != "bf16" or facts.plan.gpu.get("bf16") is not False:
        return
    changes = ["training.bf16=false"]
    for key in (COMPUTE, DTYPE):
        if facts.get(key) == "bfloat16" and not facts.plan.why.get(key, "").startswith("derived"):
            changes.append(f"{key}=float32")
    yield Advice(
        "bf16-without-hardware",
        "advice",
        f"training runs in bf16 on {facts.gpu}",
        "most processors emulate it, slower than float32, and results differ between processors",
        tuple(changes),
        "training.bf16",
        OURS,
    )


def float32_on_half_hardware(facts: Facts) -> Iterator[Advice]:
    """16 bits take half the memory and a fraction of the time."""
    if facts.half or facts.kind != "cuda" or facts.plan.gpu.get("bf16") is None:
        return
    mode = "bf16" if facts.plan.gpu["bf16"] else "fp16"
    changes = [f"training.{mode}=true"]
    if facts.get(COMPUTE) == "float32" and not facts.plan.why.get(COMPUTE, "").startswith("derived"):
        changes.append(f"{COMPUTE}={HALF[mode]}")
    yield Advice(
        "float32-on-half-hardware",
        "advice",
        f"training runs in float32, and {facts.gpu} computes in {HALF[mode]}",
        "activations take twice the memory, and the fast units for 16 bits stand still",
        tuple(changes),
        f"training.{mode}",
        f"{STUDIO}, mixed precision",
    )


def compute_dtype_differs(facts: Facts) -> Iterator[Advice]:
    """4-bit weights are unpacked to the compute type for each product."""
    compute = facts.get(COMPUTE)
    if not facts.half or not facts.get("quantization.load_in_4bit") or compute != "float32":
        return
    yield Advice(
        "compute-dtype-differs",
        "advice",
        f"4-bit weights are computed in float32, and training runs in {facts.half}",
        "each product is unpacked to twice the size and runs outside of the fast units",
        (f"{COMPUTE}={HALF[facts.half]}",),
        COMPUTE,
        f"{NOTHING_GPT}, quantization guidance",
    )


def base_in_float32(facts: Facts) -> Iterator[Advice]:
    """A frozen base gains nothing from 32 bits."""
    if not facts.half or not facts.method or facts.get(DTYPE) != "float32":
        return
    yield Advice(
        "base-in-float32",
        "advice",
        "the frozen base is kept in float32",
        f"training runs in {facts.half}; in {HALF[facts.half]} what is not quantised takes half the memory",
        (f"{DTYPE}={HALF[facts.half]}",),
        DTYPE,
        OURS,
    )


def full_in_half(facts: Facts) -> Iterator[Advice]:
    """A step of a small learning rate is below the last digit of a 16-bit weight: it rounds away."""
    if facts.method or facts.plan.peft is not None or facts.get(DTYPE) != "bfloat16":
        return
    yield Advice(
        "full-in-half",
        "advice",
        "full fine-tuning trains bfloat16 weights",
        "they have 8 bits of precision: an update below about 0.4 % of a weight rounds away; float32 takes 2 bytes a weight more, "
        "as do its gradient and each optimizer state",
        (f"{DTYPE}=float32",),
        DTYPE,
        "Kalamkar et al. 2019, arXiv 1905.12322: bfloat16 keeps float32 master weights",
    )


def fp4_weights(facts: Facts) -> Iterator[Advice]:
    """nf4 fits normally distributed weights better; bitsandbytes takes fp4 where nothing is written."""
    kind = facts.get("quantization.bnb_4bit_quant_type")
    if not facts.get("quantization.load_in_4bit") or kind not in (None, "fp4"):
        return
    yield Advice(
        "fp4-weights",
        "advice",
        "the base is stored as fp4" if kind else "no 4-bit type is written, and bitsandbytes then takes fp4",
        "nf4 takes the same memory and fits normally distributed weights better",
        ("quantization.bnb_4bit_quant_type=nf4",),
        "quantization.bnb_4bit_quant_type",
        f"{NOTHING_GPT}, quantization; QLoRA, arXiv 2305.14314",
    )


def attention_refused(facts: Facts) -> Iterator[Advice]:
    """PyTorch's attention cannot cap its scores, and transformers does not load such a model with it."""
    if facts.shape is None or facts.get(ATTENTION) != "sdpa" or not any(b.softcap for b, _ in facts.shape.blocks):
        return
    yield Advice(
        "attention-refused",
        "error",
        f"{facts.shape.family} cannot be loaded with sdpa",
        "its attention scores are capped, which PyTorch's own attention cannot do; transformers refuses to load it so",
        (f"{ATTENTION}=eager",),
        ATTENTION,
        "transformers 5.23, modeling_gemma2.py",
    )


RULES: tuple[Rule, ...] = (
    attention_refused,
    fp16_with_bf16_hardware,
    bf16_without_hardware,
    float32_on_half_hardware,
    compute_dtype_differs,
    base_in_float32,
    full_in_half,
    fp4_weights,
)
"""Rules of this file, in the order in which they are shown."""
