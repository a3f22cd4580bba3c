"""Advice on how long a run trains: epochs, steps, deadline."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nothing_tune.plan.advice.facts import (
    MARCO,
    NOTHING_GPT,
    OURS,
    STUDIO,
    Advice,
    Facts,
    Rule,
    batch_of,
    batch_words,
    count,
    many,
    number,
)
from nothing_tune.plan.rows import Rows

MOST_EPOCHS = 3
"""Nothing-GPT: not past 3 without evidence; Marco: 3 to 5; PEFT Studio: 3 to 5 for small data, 1 to 2 for large. All accept 3."""
MUCH_DATA, EPOCHS_OF_MUCH = 100_000, 2
"""PEFT Studio: 1 to 2 epochs of large data; how many rows are large is this project's reading."""
LEAST_STEPS, HARDLY_ANY = 50, 10
SMALLEST_BATCH = 8
LITTLE = 1e-3
"""Training tokens for each trained weight."""
EPOCHS, STEPS = "training.num_train_epochs", "training.max_steps"


def epochs_above_three(facts: Facts) -> Iterator[Advice]:
    """Passes beyond the third mostly teach rows by heart, unless the evaluation loss is seen to fall still."""
    epochs = facts.epochs
    if epochs is None or epochs <= MOST_EPOCHS or _stops_itself(facts):
        return
    change = f"{EPOCHS}={MOST_EPOCHS}"
    if facts.limited and facts.maths:
        change = f"{STEPS}={MOST_EPOCHS * facts.maths.per_epoch}"
    yield Advice(
        "epochs-above-three",
        "warning",
        f"{many(epochs, 'epoch')}, and nothing stops the run when the evaluation loss rises",
        f"{_rows(facts.rows)} are learned {count(epochs)} times; without evidence that the loss still falls at the end of an "
        f"epoch, {MOST_EPOCHS} is the most (monitor.early_stopping_patience=3 gathers that evidence)",
        (change,),
        STEPS if facts.limited else EPOCHS,
        f"{NOTHING_GPT}, what not to do; {MARCO} has 3 to 5, {STUDIO} 3 to 5 for small data",
    )


def epochs_for_much_data(facts: Facts) -> Iterator[Advice]:
    """Many rows need fewer passes."""
    epochs, rows = facts.epochs, facts.rows.train
    if rows is None or rows < MUCH_DATA or epochs is None or not EPOCHS_OF_MUCH < epochs <= MOST_EPOCHS:
        return
    if _stops_itself(facts):
        return
    change = f"{EPOCHS}={EPOCHS_OF_MUCH}"
    if facts.limited and facts.maths:
        change = f"{STEPS}={EPOCHS_OF_MUCH * facts.maths.per_epoch}"
    yield Advice(
        "epochs-for-much-data",
        "advice",
        f"{many(epochs, 'epoch')} of much data",
        f"{count(rows)} rows; from about {count(MUCH_DATA)} on, 1 to {EPOCHS_OF_MUCH} passes are usually enough",
        (change,),
        STEPS if facts.limited else EPOCHS,
        f"{STUDIO}, number of epochs",
    )


def full_on_little_data(facts: Facts) -> Iterator[Advice]:
    """Full fine-tuning on few tokens forgets more of the base than an adapter does."""
    tokens, parameters = facts.rows.tokens, facts.parameters
    if facts.plan.peft is not None or not tokens or not parameters or tokens >= LITTLE * parameters:
        return
    yield Advice(
        "full-on-little-data",
        "advice",
        "full fine-tuning on little data: --with methods/lora trains an adapter and keeps more of what the base knows",
        f"{count(tokens)} training tokens for {parameters / 1e9:.3g} billion weights: {_each(tokens / parameters)} a weight",
        (),
        "peft",
        "LoRA Learns Less and Forgets Less, arXiv 2405.09673",
    )


def few_steps(facts: Facts) -> Iterator[Advice]:
    """A learning rate that rises and falls needs tens of steps to do its work."""
    maths = facts.maths
    if maths is None or not maths.exact or facts.limited or maths.total >= LEAST_STEPS:
        return
    if maths.sequences < facts.global_batch or _unpacked(facts) >= LEAST_STEPS:
        return  # batch-above-rows and packing-with-few-rows say it
    severity = "warning" if maths.total < HARDLY_ANY else "advice"
    why = (
        f"{many(maths.sequences, 'sequence')}, {maths.global_batch} a step, {many(maths.epochs, 'epoch')}; "
        f"below about {LEAST_STEPS} steps little is learned"
    )
    source = f"{OURS}; {STUDIO} has 100 steps of warmup alone, {NOTHING_GPT} evaluates every 200"
    smaller = batch_of(facts, SMALLEST_BATCH) if facts.global_batch > SMALLEST_BATCH else None
    smaller = smaller if smaller and math.prod(smaller.values()) < facts.global_batch else None
    longer = {"num_train_epochs": MOST_EPOCHS} if maths.epochs < MOST_EPOCHS else {}
    for settings in ({**(smaller or {})}, longer, {**(smaller or {}), **longer}):
        if settings and (facts.total(**settings) or 0) >= LEAST_STEPS:
            words = batch_words(facts, {k: v for k, v in settings.items() if k not in longer})
            words += tuple(f"training.{k}={v}" for k, v in settings.items() if k in longer)
            yield Advice("few-steps", severity, f"the run has {many(maths.total, 'step')}", why, words, EPOCHS, source)
            return
    epochs = max(MOST_EPOCHS, math.floor(maths.epochs))
    rows = SMALLEST_BATCH * math.ceil(LEAST_STEPS / epochs)
    yield Advice(
        "few-steps",
        severity,
        f"the run has {many(maths.total, 'step')}: gather rows, about {rows} make {LEAST_STEPS} steps of {SMALLEST_BATCH} in "
        f"{epochs} epochs",
        why,
        (),
        "data.train",
        source,
    )


def deadline_before_end(facts: Facts) -> Iterator[Advice]:
    """A run that stops at its deadline goes on where it was, when it is started again."""
    limit = facts.plan.checkpoint.get("deadline_s")
    if not limit or facts.hours is None or facts.hours * 3600 <= limit:
        return
    starts = math.ceil(facts.hours * 3600 / limit)
    yield Advice(
        "deadline-before-end",
        "advice",
        f"the deadline stops the run before its end: start it {starts} times, tune resume goes on where it stopped",
        f"about {_hours(facts.hours)} of training, and {_hours(limit / 3600)} until the deadline",
        (),
        "checkpoint.deadline",
        OURS,
    )


def _stops_itself(facts: Facts) -> bool:
    return facts.evaluates and facts.plan.monitor.get("early_stopping_patience") is not None


def _unpacked(facts: Facts) -> int:
    """Steps of the run without packing; 0 where nothing is packed."""
    if not facts.plan.training.get("packing") or facts.maths is None:
        return 0
    per_epoch = math.ceil(facts.maths.rows / facts.global_batch)
    return math.ceil(per_epoch * facts.maths.epochs)


def _rows(rows: Rows) -> str:
    return f"{count(rows.train)} rows" if rows.train else "the rows"


def _hours(hours: float) -> str:
    return f"{number(round(hours, 1))} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _each(tokens: float) -> str:
    return f"1 token for {count(round(1 / tokens))} weights, {tokens:.1e}"


RULES: tuple[Rule, ...] = (
    epochs_above_three,
    epochs_for_much_data,
    full_on_little_data,
    few_steps,
    deadline_before_end,
)
"""Rules of this file, in the order in which they are shown."""
