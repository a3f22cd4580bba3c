"""What a reader may ask about an estimate: when the peak is, what is not quantised, why the band is wide. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from nothing_tune.plan.architecture import Shape
from nothing_tune.plan.memory.setting import Setting, setting
from nothing_tune.plan.memory.weights import up
from nothing_tune.plan.model import Plan

FORWARD, LOSS, BACKWARD = "the forward pass", "the loss", "the backward pass of a layer"
EMBEDDING, STEPPING = "the backward pass of the embedding", "the optimizer's step"
"""When a peak can be."""
SHOWN = 0.02
"""Share of the weights that stays unquantised from which it is worth a word."""
TYPES = {4: "32 bits", 2: "16 bits"}


@dataclass(frozen=True)
class Counted:
    """What was counted of a step.

    Attributes:
        terms: `(term, bytes)` at the peak, without the margins.
        moment: When the peak is.
        scored: Bytes that the loss takes by itself at its own most, whether the peak is there or not.
    """

    terms: tuple[tuple[str, int], ...]
    moment: str
    scored: int

    @property
    def allocated(self) -> int:
        """Bytes at the peak."""
        return sum(size for _, size in self.terms)


def unquantised(shape: Shape, plan: Plan) -> int:
    """Bytes of the layers' matrices that a quantised base keeps as they are; 0 where nothing is quantised.

    These are experts, which are slices of 3-D parameters in transformers 5 that bitsandbytes does not quantise, and what
    `llm_int8_skip_modules` names. The embedding, the output layer and the norms are never quantised and not counted here.

    Raises:
        Unlisted: What the plan does to memory is not known here.
    """
    set_ = setting(shape, plan)
    return sum(_kept(shape, set_))


def notes_of(shape: Shape, plan: Plan, set_: Setting, counted: Counted, worse: Setting | None) -> tuple[str, ...]:
    """The notes of an estimate, one clause each.

    Args:
        worse: The setting that makes the upper end of the band much higher; None where none does.
    """
    notes = []
    terms = dict(counted.terms)
    experts, skipped = _kept(shape, set_)
    for size, why in (
        (experts, "experts are 3-D parameters, which bitsandbytes does not quantise"),
        (skipped, "llm_int8_skip_modules names them"),
    ):
        if size > SHOWN * terms["weights"]:
            notes.append(f"{gib(size)} of the weights stay in {TYPES[set_.width]}: {why}")
    if (
        plan.peft
        and set_.method
        and plan.peft.get("lora_dropout")
        and set_.method.name == "LORA"
        and not set_.method.dropout
    ):
        notes.append("counted without peft.lora_dropout, which PEFT refuses on experts")
    if terms["logits"] or counted.moment == LOSS:
        notes.append(f"the peak is in {counted.moment}")
    else:
        when = "before" if counted.moment == FORWARD else "after"
        notes.append(f"the peak is in {counted.moment}, {when} the loss, which takes {gib(counted.scored)} at its most")
    if worse is not None and worse.attention == "math":
        notes.append(
            "the upper end is for attention that writes out the scores of all pairs of tokens: before Ampere no fused kernel takes "
            "fewer heads of keys and values than of queries"
        )
    elif worse is not None and worse.padding:
        notes.append("the upper end is for rows of different length, whose attention needs a mask")
    return tuple(notes)


def _kept(shape: Shape, set_: Setting) -> tuple[int, int]:
    """Bytes of matrices that are not quantised: `(experts, those that are left out by name)`."""
    if not set_.quant:
        return 0, 0
    experts = sum(x.count * x.weights * set_.width for x in shape.linears if x.parameter)
    named = [x for x in shape.linears if x.name in set_.skip and not x.parameter]
    return experts, sum(x.count * up(x.weights * set_.width) for x in named)


def gib(count: float) -> str:
    """Bytes in GiB, with one place; in MiB below 1 GiB."""
    value = count / 2**30
    return f"{value:.1f} GiB" if value >= 0.95 else f"{count / 2**20:.0f} MiB"
