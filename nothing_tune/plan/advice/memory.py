"""Advice on GPU memory: activations, optimizer state; and how much room there is, which other rules ask too."""

from __future__ import annotations

from collections.abc import Iterator

from nothing_tune.plan import memory as memories
from nothing_tune.plan.advice.facts import CALLING, MARCO, OURS, STUDIO, Advice, Facts, Rule, percent
from nothing_tune.plan.memory import Estimate
from nothing_tune.plan.memory.notes import gib

SAFE = 0.9
"""Of the usable memory: batches differ, and the allocator leaves gaps."""
STATE, SMALL_STATE = 0.25, 0.02
"""Share of the GPU's memory that 32-bit optimizer state takes, or 8 bits save, from which it matters."""
NEW, OLD = "activation_checkpointing", "gradient_checkpointing"
OPTIM = "training.optim"


def room(facts: Facts) -> float | None:
    """Bytes that a plan may fill with some safety; None where the GPU's memory is unknown."""
    usable = memories.usable(facts.plan.gpu) if facts.kind == "cuda" else None
    return None if usable is None else SAFE * usable


def fills(estimate: Estimate, factor: float) -> float:
    """Bytes at the upper end of the band, with `factor` times as many tokens at once: activations and logits grow with them."""
    grows = estimate.terms.get("activations", 0) + estimate.terms.get("logits", 0)
    return estimate.high + (factor - 1) * grows


def frees(facts: Facts) -> bool:
    """Whether activations fit without being recomputed."""
    have, kept = room(facts), facts.without_checkpointing
    return facts.checkpoints and have is not None and kept is not None and kept.high <= have


def checkpointing_needed(facts: Facts) -> Iterator[Advice]:
    """Activations are most of what a step needs; recomputing them takes a fifth to a third more time."""
    usable = memories.usable(facts.plan.gpu) if facts.kind == "cuda" else None
    if facts.checkpoints or usable is None or facts.memory is None or facts.memory.peak <= usable:
        return
    kept = facts.memory.terms.get("activations", 0)
    if facts.memory.peak - 0.8 * kept > usable:
        return  # it would not fit with it either
    yield Advice(
        "checkpointing-needed",
        "warning",
        f"the longest batch does not fit on {facts.gpu} while activations are kept",
        f"{gib(facts.memory.peak)} of {gib(usable)}; {gib(kept)} are activations of {facts.memory.rows} x "
        f"{facts.memory.length} tokens, which recomputing keeps small for 20 to 30 % more time",
        _switch(facts, True),
        f"training.{NEW}",
        f"{STUDIO}, gradient checkpointing; {MARCO}",
    )


def checkpointing_wasteful(facts: Facts) -> Iterator[Advice]:
    """Where activations fit, computing them twice is time for nothing."""
    have, kept = room(facts), facts.without_checkpointing
    if not frees(facts) or have is None or kept is None:
        return
    yield Advice(
        "checkpointing-wasteful",
        "advice",
        "activations are recomputed although they fit",
        f"the longest batch, {kept.rows} x {kept.length} tokens, takes {gib(kept.peak)} with all activations, of the "
        f"{gib(have)} that are safe on {facts.gpu}; keeping them saves 20 to 30 % of the time",
        _switch(facts, False),
        f"training.{NEW}",
        f"{STUDIO}, gradient checkpointing; {MARCO}, high-performance environment",
    )


def optimizer_state_large(facts: Facts) -> Iterator[Advice]:
    """AdamW keeps two numbers for each trained weight: 8 bytes in 32 bits, 2 in 8."""
    state, usable = _state(facts), memories.usable(facts.plan.gpu) if facts.kind == "cuda" else None
    if state is None or usable is None or not _adamw(facts) or _eight(facts) or state < STATE * usable:
        return
    yield Advice(
        "optimizer-state-large",
        "advice",
        "the optimizer's state takes much of the memory",
        f"{gib(state)} of {gib(usable)}, {percent(state / usable)}; in 8 bits about {gib(state / 4)}",
        (f"{OPTIM}=adamw_8bit",),
        OPTIM,
        f"{CALLING}, adamw_8bit; arXiv 2110.02861",
    )


def adam_8bit_pointless(facts: Facts) -> Iterator[Advice]:
    """Small adapters have little state to save on."""
    state, usable = _state(facts), memories.usable(facts.plan.gpu) if facts.kind == "cuda" else None
    if state is None or usable is None or not _adamw(facts) or not _eight(facts) or facts.plan.peft is None:
        return
    saved = 3 * state
    if saved >= SMALL_STATE * usable or facts.memory is None or facts.memory.high + saved > SAFE * usable:
        return
    yield Advice(
        "adam-8bit-pointless",
        "advice",
        f"{facts.get(OPTIM)} saves hardly anything",
        f"the adapter's optimizer state takes {gib(state)} and would take {gib(4 * state)} in 32 bits, of "
        f"{gib(usable)}; full precision learns at least as well",
        (f"{OPTIM}=adamw_torch_fused",),
        OPTIM,
        f"{OURS}; arXiv 2110.02861",
    )


def _state(facts: Facts) -> int | None:
    """Bytes of the optimizer's state; None where unknown."""
    return facts.memory.terms.get("optimizer") if facts.memory else None


def _adamw(facts: Facts) -> bool:
    return "adamw" in str(facts.get(OPTIM, "adamw_torch_fused"))


def _eight(facts: Facts) -> bool:
    name = str(facts.get(OPTIM, ""))
    return "8bit" in name or "4bit" in name


def _switch(facts: Facts, on: bool) -> tuple[str, ...]:
    """Words that switch recomputing on or off; the old name is written too where the recipe uses it."""
    old = facts.get(f"training.{OLD}") is not None
    value = str(on).lower()
    return (f"training.{NEW}={value}", *((f"training.{OLD}={value}",) if old else ()))


RULES: tuple[Rule, ...] = (checkpointing_needed, checkpointing_wasteful, optimizer_state_large, adam_8bit_pointless)
"""Rules of this file, in the order in which they are shown."""
