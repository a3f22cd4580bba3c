"""What fits a GPU, by the plan's own arithmetic where it knows the architecture, else by a rule of thumb that says so."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.init.look import Gpu, Model, gpus
from nothing_tune.errors import Problem
from nothing_tune.recipe.compose import Setting, scalar

LIGHT = ("lora", "qlora")
"""Methods that are proposed where another one does not fit, the one that keeps more precision first."""
ROUGH = {"qlora": 0.7, "full": 16.0}
"""Bytes a parameter for weights, gradients and optimizer where the architecture is unknown: 4 bits and their scales with the
embedding in 16 bits (QLoRA, arXiv 2305.14314); weights, gradients, two moments and a copy (ZeRO, arXiv 1910.02054); else 2.2."""
ROUGH_REST = 2.0e9
"""Bytes for all else at one row of 1,024 tokens with checkpointing, by the same rule of thumb; a guess."""
ROUGH_LENGTH = 1024
GIB = 1 << 30


@dataclass(frozen=True)
class Need:
    """GPU memory that a setting needs, in bytes: the peak and its band, wide where it is a rule of thumb (`rough`)."""

    peak: int
    low: int
    high: int
    rough: bool = False

    @property
    def told(self) -> str:
        """`9.4 GiB`, `about 9 GiB`."""
        return f"about {self.peak / GIB:.0f} GiB" if self.rough else f"{self.peak / GIB:.1f} GiB"


def usable(gpu: Gpu) -> int | None:
    """Bytes of a GPU that a training can have; None where its memory is unknown, or is the machine's."""
    from nothing_tune.plan import memory

    return memory.usable(gpu.facts) if gpu.kind == "cuda" else None


def room(gpu: Gpu) -> str:
    """`21.8 GiB`, what `usable` says in words; empty where it is unknown."""
    have = usable(gpu)
    return f"{have / GIB:.1f} GiB" if have else ""


def fits(need: Need | None, gpu: Gpu) -> bool | None:
    """Whether it fits, by the peak; None where one of both is unknown."""
    have = usable(gpu)
    return None if need is None or have is None else need.peak <= have


def surely(need: Need | None, gpu: Gpu) -> bool | None:
    """Whether it fits by the high end of the estimate, as what is proposed should; None where one of both is unknown."""
    have = usable(gpu)
    return None if need is None or have is None else need.high <= have


def needs(
    model: Model, method: str, gpu: Gpu, rows: int = 1, length: int = 1024, more: tuple[str, ...] = ()
) -> Need | None:
    """What `rows` rows of `length` tokens need at once, by the recipe that `init` would write; None where not even the model's
    size is known, and where its architecture is known but not what the method makes of it.

    Args:
        more: Overrides of the recipe that count, such as `peft.r=64`.
    """
    if gpu.kind != "cuda":
        return None
    return _needs(model, method, bool(gpu.facts.get("bf16")), rows, length, more)


@lru_cache(maxsize=1024)
def _needs(model: Model, method: str, bf16: bool, rows: int, length: int, more: tuple[str, ...]) -> Need | None:
    from nothing_tune.plan import memory
    from nothing_tune.plan.architecture import Unlisted

    words = [f"{one.key}={scalar(one.value)}" for one in musts(model, method)]
    plan, _ = console.outcome(lambda: _plan(method, bf16, (*more, *words)))
    known = _shape(model)
    if known and plan:
        with suppress(Unlisted):
            told = memory.estimate(known, plan, rows, length)
            return Need(told.peak, told.low, told.high)
        return None
    if model.parameters_b is None:
        return None
    weights = model.parameters_b * 1e9 * ROUGH.get(method, 2.2)
    peak = round(weights + ROUGH_REST * max(1.0, rows * length / ROUGH_LENGTH) ** 0.8)
    return Need(peak, round(peak * 0.7), round(peak * 1.3), rough=True)


def _shape(model: Model) -> Any:
    """The architecture; None where config.json is not at hand, or of a family that is not known."""
    from nothing_tune.plan.architecture import Unlisted, shape

    with suppress(Unlisted):
        return shape(model.config) if model.config else None
    return None


@lru_cache(maxsize=128)
def musts(model: Model, method: str) -> tuple[Setting, ...]:
    """What this architecture needs in a recipe with this method, each with its reason; empty where it is not known."""
    known = _shape(model)
    plan, _ = console.outcome(lambda: _plan(method, True, ()))
    if known is None or plan is None:
        return ()
    out = []
    if any(block.softcap for block, _ in known.blocks):
        why = f"{known.family} caps its attention scores, which PyTorch's own attention cannot do"
        out.append(Setting("model.attn_implementation", "eager", why))
    return (*out, *_for_adapter(known, plan.peft))


def _for_adapter(known: Any, peft: Any) -> tuple[Setting, ...]:
    """What lets PEFT adapt the model: no dropout on experts, else no adapter on them."""
    from nothing_tune.plan.architecture import adapter_parameters, adapts_experts

    if not peft:
        return ()
    if adapter_parameters(known, peft) is not None:
        if adapts_experts(known, peft) and peft.get("lora_dropout"):
            return (Setting("peft.lora_dropout", 0.0, "the adapter reaches experts, and PEFT has no dropout there"),)
        return ()
    plain = sorted({x.name for x in known.linears if not x.parameter and x.name != "gate"})
    if plain and adapter_parameters(known, {**peft, "target_modules": plain}) is not None:
        return (
            Setting("peft.target_modules", plain, "PEFT adapts experts by plain LoRA only: the others are adapted"),
        )
    return ()


@lru_cache(maxsize=64)
def _plan(method: str, bf16: bool, more: tuple[str, ...]) -> Any:
    """The plan of a recipe that says nothing but method and GPU, on a GPU with or without bf16: memory follows no more of them."""
    from nothing_tune.plan import make_plan
    from nothing_tune.recipe import load_recipe

    overrides = ["model.name_or_path=ORG/NAME", "data.train=rows.jsonl", *more]
    return make_plan(load_recipe(f"methods/{method}", gpu="l4" if bf16 else "t4", overrides=overrides))


def nearest(model: Model, gpu: Gpu, method: str) -> list[str]:
    """What would fit instead, in words: a lighter method on this GPU, the smallest GPU for this method, and for the lightest."""
    out = []
    for light in LIGHT:
        if light != method and possible(light, gpu) is None and fits(needs(model, light, gpu), gpu):
            out.append(f"{light} on {gpu.name}")
            break
    for each in dict.fromkeys((method, "qlora")):
        larger = smallest(model, each)
        if larger is not None and larger.name != gpu.name:
            out.append(f"{each} on {larger.name} ({room(larger)})")
    return out


def smallest(model: Model, method: str) -> Gpu | None:
    """The GPU of least memory in the library that the method fits on with this model; None where there is none."""
    known = [
        g for g in gpus().values() if g.kind == "cuda" and g.facts.get("memory_gb") and possible(method, g) is None
    ]
    known.sort(key=lambda g: (g.facts["memory_gb"], not g.here, g.name))
    return next((g for g in known if fits(needs(model, method, g), g)), None)


def possible(method: str, gpu: Gpu) -> Problem | None:
    """Why a method does not run on a GPU at all; None where it does."""
    if gpu.kind == "mps" and method == "qlora":
        return Problem(f"qlora needs bitsandbytes, which does not run on {gpu.name}", hint="lora, or a CUDA GPU")
    if gpu.kind != "cuda" and method == "loftq":
        return Problem(
            f"loftq is computed on a CUDA GPU, and this is {gpu.name}", hint="pissa starts as well and needs none"
        )
    return None


def refusal(model: Model, method: str, gpu: Gpu) -> Problem | None:
    """What is said where not even one short row fits by the low end of the estimate; None where it may, or is unknown."""
    need, have = needs(model, method, gpu, 1, 512), usable(gpu)
    if need is None or have is None or need.low <= have:
        return None
    near = nearest(model, gpu, method)
    cure = (
        f"nearest that fits: {' or '.join(near)}"
        if near
        else "no GPU of the library is large enough: take a smaller model"
    )
    return Problem(
        f"{model.name} with {method} does not fit {gpu.name}: it needs {need.told}, and {room(gpu)} are usable",
        hint=cure,
    )
