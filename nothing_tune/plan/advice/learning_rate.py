"""Advice on the learning rate, its warmup and decay, and what keeps its steps in bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nothing_tune.plan.advice.facts import (
    MARCO,
    NOTHING_GPT,
    OURS,
    STUDIO,
    Advice,
    Facts,
    Rule,
    count,
    number,
    percent,
    rate,
)

TINY, LARGE = 100e6, 10e9
"""Parameters. PEFT Studio has other rates for larger models, and 1e-4 for its 13B template, 2e-4 for a 7B one."""
FAR = 2.0
"""Times outside of the band from which it will likely waste the run."""


@dataclass(frozen=True)
class Band:
    """Learning rates from `low` to `high` that a method bears, the `usual` one, and who says so."""

    low: float
    high: float
    usual: float
    source: str


LORA = Band(1e-4, 5e-4, 2e-4, f"{MARCO}, learning_rate; {STUDIO}")
LORA_LARGE = Band(1e-4, 2e-4, 1e-4, f"{STUDIO}, larger models")
LORA_TINY = Band(1e-4, 5e-3, 1e-3, f"{OURS}, as the model that ships is trained; {STUDIO}: smaller models bear more")
FULL = Band(1e-5, 5e-5, 1e-5, f"{MARCO}, learning_rate")
FULL_TINY = Band(1e-5, 2e-3, 5e-4, f"{OURS}, the model that ships; {STUDIO}: smaller models bear more")
DECOMPOSED = Band(2e-5, 5e-4, 2e-4, "PiSSA, arXiv 2404.02948; learning rates of LoRA variants, arXiv 2602.04998")
"""PiSSA and OLoRA start inside of the weights, where steps weigh more: lower rates than LoRA's are right too."""
IA3 = Band(1e-3, 1e-2, 3e-3, "IA3, arXiv 2205.05638")
VERA = Band(1e-3, 1e-2, 2e-3, "VeRA, arXiv 2310.11454")
KEY, WARMUP, SCHEDULE = "training.learning_rate", "training.warmup_steps", "training.lr_scheduler_type"

LOW_WARMUP, HIGH_WARMUP, TOO_LONG = 0.03, 0.10, 0.30
"""Shares of all steps. Marco and the function-calling guide: 3 %; PEFT Studio: 5 to 10 %."""
NO_DECAY = ("constant", "constant_with_warmup")
HIGH_DECAY, USUAL_DECAY = 0.1, 0.01
WATCHED_FROM = 3e-4


def learning_rate(facts: Facts) -> Iterator[Advice]:
    """Each method bears its own rates: adapters more than whole models, vectors more than matrices, small models more than large."""
    band, what, value = _band(facts), _called(facts), facts.get(KEY)
    if band is None or not isinstance(value, int | float) or "adamw" not in str(facts.get("training.optim", "adamw")):
        return
    if band.low * 0.999 <= value <= band.high * 1.001:
        return
    far = value * FAR < band.low * 0.999 or value > band.high * FAR * 1.001
    risk = "it learns hardly anything" if value < band.low else "the loss may jump, or the base forget what it knows"
    yield Advice(
        "learning-rate",
        "warning" if far else "advice",
        f"the learning rate is {rate(value)}",
        f"{what} bears {rate(band.low)} to {rate(band.high)}: {risk}",
        (f"{KEY}={rate(band.usual)}",),
        KEY,
        band.source,
    )


def warmup_share(facts: Facts) -> Iterator[Advice]:
    """Too short a warmup starts unstable, too long a one leaves few steps at the full rate."""
    maths = facts.maths
    if maths is None or not maths.exact or facts.get(SCHEDULE, "linear") == "constant":
        return
    warmup, total = maths.warmup, maths.total
    low, high = math.floor(LOW_WARMUP * total), math.ceil(HIGH_WARMUP * total)
    if low <= warmup <= high or total < 2:
        return
    key = f"{count(warmup)} of {count(total)} steps are {percent(warmup / total)}"
    source = f"{STUDIO} has 5 to 10 %, {MARCO} 3 %"
    change = (f"{WARMUP}={0.05 if warmup > high else LOW_WARMUP}",)
    if warmup >= total:
        what = "the warmup is as long as the run" if warmup == total else "the warmup is longer than the run"
        why = f"{count(warmup)} steps of warmup, {count(total)} in all: the learning rate never decays"
        why += "" if warmup == total else f", and ends at {percent(total / warmup)} of what is written"
        yield Advice("warmup-share", "warning", what, why, change, WARMUP, source)
    elif warmup > high:
        severity = "warning" if warmup > TOO_LONG * total else "advice"
        why = f"{key}; 3 to 10 % are usual, and steps of the warmup learn less"
        yield Advice("warmup-share", severity, "the warmup is long", why, change, WARMUP, source)
    else:
        what = "the warmup is short" if warmup else "there is no warmup"
        why = f"{key}; 3 to 10 % are usual, and a cold start can be unstable"
        yield Advice("warmup-share", "advice", what, why, change, WARMUP, source)


def no_decay(facts: Facts) -> Iterator[Advice]:
    """A rate that does not fall leaves the weights where the last rows threw them."""
    kind = facts.get(SCHEDULE)
    if kind not in NO_DECAY:
        return
    warmup = facts.maths.warmup if facts.maths else 0
    ignored = f", and the {count(warmup)} steps of warmup are not made" if kind == "constant" and warmup else ""
    yield Advice(
        "no-decay",
        "advice",
        f"the schedule is {kind}",
        f"the learning rate stays at {rate(facts.get(KEY, 0.0))} to the last step{ignored}",
        (f"{SCHEDULE}=cosine",),
        SCHEDULE,
        f"{MARCO}, lr_scheduler_type",
    )


def restarts_once(facts: Facts) -> Iterator[Advice]:
    """The schedule takes one cycle where none is written, which is a plain cosine (transformers optimization.py)."""
    given = facts.get("training.lr_scheduler_kwargs", {})
    cycles = given.get("num_cycles", 1) if isinstance(given, dict) else None
    if facts.get(SCHEDULE) != "cosine_with_restarts" or not isinstance(cycles, int | float) or cycles > 1:
        return
    key = "training.lr_scheduler_kwargs.num_cycles"
    yield Advice(
        "restarts-once",
        "advice",
        "the schedule cosine_with_restarts never restarts",
        f"num_cycles is {number(cycles)}: it is a plain cosine",
        (f"{key}=2",),
        key,
        f"{NOTHING_GPT}, cosine with warm restarts",
    )


def weight_decay_high(facts: Facts) -> Iterator[Advice]:
    """Strong decay pulls the adapter back to nothing."""
    key = "training.weight_decay"
    value = facts.get(key, 0.0)
    if value < HIGH_DECAY:
        return
    yield Advice(
        "weight-decay-high",
        "advice",
        f"the weight decay is {number(value)}",
        f"from {HIGH_DECAY} on it hurts what is learned; {USUAL_DECAY} is gentle",
        (f"{key}={USUAL_DECAY}",),
        key,
        f"{MARCO}, weight_decay",
    )


def gradients_unclipped(facts: Facts) -> Iterator[Advice]:
    """One batch of large gradients can undo what was learned."""
    key = "training.max_grad_norm"
    if facts.get(key, 1.0) > 0:
        return
    yield Advice(
        "gradients-unclipped",
        "advice",
        "gradients are not clipped",
        "max_grad_norm is 0: one bad batch may move the weights without limit, up to a loss that is not a number",
        (f"{key}=1.0",),
        key,
        f"{STUDIO}, loss is NaN",
    )


def loss_spikes_unwatched(facts: Facts) -> Iterator[Advice]:
    """A high rate is safe while somebody looks at the loss."""
    value, band = facts.get(KEY), _band(facts)
    if facts.plan.monitor.get("loss_spike") is not None or not isinstance(value, int | float) or band is None:
        return
    if value < max(WATCHED_FROM, band.usual * 1.5):
        return
    yield Advice(
        "loss-spikes-unwatched",
        "advice",
        "nothing warns of loss spikes",
        f"the learning rate {rate(value)} is high enough for them; monitor.loss_spike is null",
        ("monitor.loss_spike=3.0",),
        "monitor.loss_spike",
        f"{NOTHING_GPT}, higher learning rate",
    )


def _band(facts: Facts) -> Band | None:
    """What the method and the model's size bear; the widest band where the size is unknown, None for a method not known here."""
    size = facts.parameters
    start = facts.get("peft.init_lora_weights")
    if facts.plan.peft is None:
        if size is None:
            return Band(FULL.low, FULL_TINY.high, FULL.usual, FULL.source)
        return FULL_TINY if size < TINY else FULL
    if facts.method == "LORA":
        if isinstance(start, str) and start.startswith(("pissa", "olora")):
            return (
                Band(DECOMPOSED.low, LORA_TINY.high, LORA_TINY.usual, LORA_TINY.source) if _tiny(size) else DECOMPOSED
            )
        if size is None:
            return Band(LORA.low, LORA_TINY.high, LORA.usual, LORA.source)
        return LORA_TINY if size < TINY else LORA_LARGE if size >= LARGE else LORA
    return {"IA3": IA3, "VERA": VERA}.get(facts.method)


def _tiny(size: float | None) -> bool:
    return size is None or size < TINY


def _called(facts: Facts) -> str:
    """The method, and the size of the model where it matters."""
    start = str(facts.get("peft.init_lora_weights", ""))
    name = {"IA3": "IA3", "VERA": "VeRA", "": "full fine-tuning"}.get(facts.method, "LoRA")
    if name == "LoRA":
        name = next((n for k, n in (("pissa", "PiSSA"), ("olora", "OLoRA")) if start.startswith(k)), name)
        name = "DoRA" if facts.get("peft.use_dora") and name == "LoRA" else name
    size = facts.parameters
    if size is None:
        return name
    told = f"{size / 1e9:.2g}B" if size >= 1e9 else f"{size / 1e6:.0f}M"
    return f"{name} of a {told} model"


RULES: tuple[Rule, ...] = (
    learning_rate,
    warmup_share,
    no_decay,
    restarts_once,
    weight_decay_high,
    gradients_unclipped,
    loss_spikes_unwatched,
)
"""Rules of this file, in the order in which they are shown."""
