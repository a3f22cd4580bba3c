"""How a plan trains, in the words that memory is counted with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.plan.architecture import Shape, Unlisted
from nothing_tune.plan.architecture.adapters import Method, method
from nothing_tune.plan.model import Plan

WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one element."""
ATTENTION = {
    "eager": "eager",
    "sdpa": "sdpa",
    "flash_attention_2": "flash",
    "flash_attention_3": "flash",
}
"""attn_implementation -> what it keeps."""
FUSED, FULL = "fused", "full"
"""How the loss is made: TRL's fused output layer (since 1.7 in tiles), or every logit at once (until 1.6)."""


@dataclass(frozen=True)
class Setting:
    """What decides the memory of a step besides the model and the batch.

    Attributes:
        width: Bytes of an element of the weights that are not quantised, and of the residual stream.
        amp: Bytes of autocast's type; 0 without autocast.
        quant: `4bit`, `8bit` or empty; `nested` for double quantisation; `blocksize` elements share one scale.
        compute: Bytes of the type that 4-bit weights are multiplied in.
        method: The PEFT method; None trains everything.
        adapter: Bytes of an element of the adapter.
        saved: The same of modules that train in full besides (`modules_to_save`), copies in the model's own type.
        magnitude: The same of DoRA's magnitude.
        attention: `eager`, `sdpa`, `flash`, or `math`: what sdpa falls back to where no fused kernel runs.
        block_mask: Several documents in one row: attention needs a mask (packing or padding-free, without flash attention).
        padding: Rows of different length: attention needs a mask for them (without flash attention).
        checkpoint: Whether layers are computed again in the backward pass.
        accumulate: Whether gradients exist before the last micro batch.
        world: Processes that train together.
        optimizer: Name as `training.optim` has it.
        loss: `fused` or `full`.
        skip: Matrices that stay unquantised (`llm_int8_skip_modules`), by name.
    """

    width: int
    amp: int
    quant: str
    nested: bool
    blocksize: int
    compute: int
    method: Method | None
    adapter: int
    saved: int
    magnitude: int
    attention: str
    block_mask: bool
    padding: bool
    checkpoint: bool
    accumulate: bool
    world: int
    optimizer: str
    loss: str
    skip: tuple[str, ...] = ()


def setting(shape: Shape, plan: Plan, loss: str = FUSED) -> Setting:
    """The setting of `plan` for `shape`. `Unlisted` for what is not counted here."""
    t = plan.training
    for key in (
        "fsdp",
        "deepspeed",
        "use_liger_kernel",
        "torch_compile",
        "activation_offloading",
        "parallelism_config",
    ):
        if t.get(key):
            raise Unlisted(f"what training.{key} does to memory is not counted here")
    if t.get("label_smoothing_factor"):
        raise Unlisted("label smoothing needs all logits in a forward pass of its own, which is not counted here")
    init = plan.model.get("init") or {}
    if init.get("use_kernels"):
        raise Unlisted("what the hub's kernels keep is not listed")
    dtype = str(init.get("dtype") or "float32")
    if dtype not in WIDTH:
        raise Unlisted(f"the type {dtype} is not listed")
    half = bool(t.get("bf16") or t.get("fp16"))
    implementation = str(init.get("attn_implementation") or "sdpa").split("@")[0]
    attention = ATTENTION.get("sdpa" if implementation == "auto" else implementation)
    if attention is None:
        raise Unlisted(f"what the attention {implementation} keeps is not listed")
    quant, nested, blocksize, compute = _quantised(plan.quantization, WIDTH[dtype])
    made = method(shape, plan.peft) if plan.peft else None
    if quant and made is None:
        raise Unlisted("quantised weights cannot train")
    if quant and made and made.name == "VERA":
        raise Unlisted("VeRA on quantised weights is not listed")
    packed = bool(t.get("packing") or t.get("padding_free"))
    kwargs = t.get("activation_checkpointing_kwargs") or t.get("gradient_checkpointing_kwargs") or {}
    if kwargs.get("selective"):
        raise Unlisted("selective checkpointing keeps what its rules choose, which is not counted here")
    return Setting(
        width=WIDTH[dtype],
        amp=2 if half else 0,
        quant=quant,
        nested=nested,
        blocksize=blocksize,
        compute=compute,
        method=made,
        adapter=_adapter_width(plan, quant),
        saved=_adapter_width(plan, quant) if quant or plan.trainable_dtype else WIDTH[dtype],
        magnitude=4,
        attention=attention,
        block_mask=packed and attention != "flash",
        padding=False,
        checkpoint=checkpoints(t),
        accumulate=int(t.get("gradient_accumulation_steps") or 1) > 1,
        world=plan.world_size,
        optimizer=str(t.get("optim") or "adamw_torch_fused").rsplit(".", 1)[-1].lower(),
        loss=loss,
        skip=tuple((plan.quantization or {}).get("llm_int8_skip_modules") or ()),
    )


def checkpoints(training: Mapping[str, Any]) -> bool:
    """Whether activations are recomputed; TRL has it on by default."""
    value = training.get("activation_checkpointing")
    return bool(value if value is not None else training.get("gradient_checkpointing", True))


def _quantised(given: Mapping[str, Any] | None, width: int) -> tuple[str, bool, int, int]:
    """`(kind, double, blocksize, bytes of the compute type)`."""
    if not given:
        return "", False, 64, width
    if given.get("load_in_4bit"):
        compute = WIDTH.get(str(given.get("bnb_4bit_compute_dtype") or "float32").rsplit(".", 1)[-1], 4)
        return "4bit", bool(given.get("bnb_4bit_use_double_quant")), 64, compute
    if given.get("load_in_8bit"):
        return "8bit", False, 64, width
    raise Unlisted("this quantisation is not listed")


def _adapter_width(plan: Plan, quant: str) -> int:
    """Bytes of an element of the adapter.

    PEFT makes adapters float32 on 16-bit weights (autocast_adapter_dtype); TRL 1.16 then makes those on a quantised base
    bfloat16; `trainable_dtype` is what tune makes of them afterwards.
    """
    if plan.trainable_dtype:
        return WIDTH.get(plan.trainable_dtype, 4)
    return 2 if quant else 4
