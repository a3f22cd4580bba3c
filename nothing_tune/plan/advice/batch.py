"""Advice on the batch: rows of a step, rows at once, rows left out."""

from __future__ import annotations

from collections.abc import Iterator

from nothing_tune.plan.advice.facts import (
    MARCO,
    NOTHING_GPT,
    OURS,
    Advice,
    Facts,
    Rule,
    batch_of,
    batch_words,
    count,
    many,
    percent,
)
from nothing_tune.plan.advice.memory import fills, frees, room
from nothing_tune.plan.batch import ACCUMULATION, MICRO
from nothing_tune.plan.memory.notes import gib

SMALLEST, USUAL, LARGEST = 8, 16, 32
"""Rows of a step. Nothing-GPT: not below 8, 16 is used, 32 is smoother but slower; Marco: 8 to 16 is best, above 32 converges slower."""
ENOUGH = 2048
"""Tokens at once from which a GPU no longer waits for weights: an L4 does about 400 operations for each byte that it reads, and
4-bit weights are unpacked anew for each micro batch. Above that, more rows at once bring more padding than speed."""
DROPPED = 0.05
"""Share of the rows left out of each epoch from which it is worth a word."""
ACC_KEY, EVAL_KEY = f"training.{ACCUMULATION}", "training.per_device_eval_batch_size"


def global_batch_small(facts: Facts) -> Iterator[Advice]:
    """Gradients of few rows are noisy."""
    settings = _batch(facts, SMALLEST)
    if facts.global_batch >= SMALLEST or settings is None:
        return
    yield Advice(
        "global-batch-small",
        "warning",
        f"the global batch is {count(facts.global_batch)}",
        f"{facts.micro} rows at once x {facts.accumulation} accumulated; below {SMALLEST} the gradient is too noisy to converge "
        "steadily",
        batch_words(facts, settings),
        ACC_KEY,
        f"{NOTHING_GPT}, what not to do; {MARCO}, effective batch size",
    )


def global_batch_large(facts: Facts) -> Iterator[Advice]:
    """Large steps are few steps: the run converges slower."""
    settings = batch_of(facts, USUAL)
    if facts.global_batch <= LARGEST or settings is None or settings[MICRO] * settings[ACCUMULATION] > LARGEST:
        return
    yield Advice(
        "global-batch-large",
        "advice",
        f"the global batch is {count(facts.global_batch)}",
        f"{facts.micro} rows at once x {facts.accumulation} accumulated; above {LARGEST} a run converges slower, 8 to {USUAL} is "
        "usual",
        batch_words(facts, settings),
        ACC_KEY,
        f"{MARCO}, effective batch size; {NOTHING_GPT} has 32 as smoother but slower",
    )


def batch_above_rows(facts: Facts) -> Iterator[Advice]:
    """A step of more rows than there are never fills."""
    maths = facts.maths
    if maths is None or not maths.exact or maths.sequences >= facts.global_batch:
        return
    why = f"{count(maths.sequences)} sequences an epoch, {facts.global_batch} a step"
    settings = batch_of(facts, SMALLEST) if maths.sequences >= SMALLEST else None
    if facts.fits is False and facts.rebatched:
        what = "a step takes more sequences than there are: what would fit has smaller steps"
        yield Advice("batch-above-rows", "warning", what, why, (), ACC_KEY, OURS)
    elif settings and settings[MICRO] * settings[ACCUMULATION] <= maths.sequences:
        what = "a step takes more sequences than there are"
        yield Advice("batch-above-rows", "warning", what, why, batch_words(facts, settings), ACC_KEY, OURS)
    else:
        what = f"a step takes more sequences than there are: gather rows, at least {facts.global_batch}"
        yield Advice("batch-above-rows", "warning", what, why, (), "data.train", OURS)


def rows_dropped(facts: Facts) -> Iterator[Advice]:
    """With `dataloader_drop_last` what does not fill a last batch is never learned, and with few rows that is all."""
    maths = facts.maths
    if maths is None or not maths.exact or not maths.dropped or maths.dropped < DROPPED * maths.sequences:
        return
    everything = maths.dropped >= maths.sequences
    yield Advice(
        "rows-dropped",
        "error" if everything else "warning",
        "no batch is full, and dataloader_drop_last leaves out what is not: nothing would train"
        if everything
        else "dataloader_drop_last leaves rows out of every epoch",
        f"{count(maths.dropped)} of {count(maths.sequences)} sequences, {percent(maths.dropped / maths.sequences)}; "
        f"{count(maths.micro * maths.world)} make a full batch",
        ("training.dataloader_drop_last=false",),
        "training.dataloader_drop_last",
        OURS,
    )


def micro_batch_could_grow(facts: Facts) -> Iterator[Advice]:
    """A step in fewer, larger pieces is faster where memory is there, until a piece fills the GPU."""
    world, have = facts.plan.world_size, room(facts)
    if facts.rebatched:
        return  # a change for the memory's sake says it, counted instead of extrapolated
    if facts.accumulation <= 1 or have is None or facts.memory is None or facts.memory.rows != facts.micro:
        return
    if frees(facts) or not SMALLEST <= facts.global_batch <= LARGEST:
        return  # the same memory is better spent, or the batch itself is to change
    packed = bool(facts.plan.training.get("packing"))
    grouped = facts.plan.training.get("train_sampling_strategy") == "group_by_length"
    length = facts.rows.typical(facts.micro, facts.memory.length, packed, grouped) or facts.memory.length
    sizes = [n for n in range(facts.micro + 1, facts.global_batch + 1) if facts.global_batch % (n * world) == 0]
    fit = [n for n in sizes if fills(facts.memory, n / facts.micro) <= have]
    if not fit or facts.micro * length >= ENOUGH:
        return
    rows = next((n for n in fit if n * length >= ENOUGH), fit[-1])
    settings = {MICRO: rows, ACCUMULATION: facts.global_batch // rows}
    yield Advice(
        "micro-batch-could-grow",
        "advice",
        f"{many(facts.micro, 'row')} at once, {facts.accumulation} times a step, while {rows} would fit",
        f"{count(facts.micro * length)} tokens at once leave {facts.gpu} waiting for weights; the longest batch of {rows} rows takes "
        f"about {gib(fills(facts.memory, rows / facts.micro))} of the {gib(have)} that are safe, and the global batch "
        f"stays {facts.global_batch}",
        batch_words(facts, settings),
        f"training.{MICRO}",
        f"{MARCO}, warning signs: very slow training",
    )


def evaluation_batch_small(facts: Facts) -> Iterator[Advice]:
    """Evaluation keeps no gradients: what trains also evaluates."""
    rows = int(facts.get(EVAL_KEY) or 8)
    micro = int(facts.plan.training.get(MICRO) or 8)
    if not facts.evaluates or rows >= micro or facts.fits is False:
        return
    yield Advice(
        "evaluation-batch-small",
        "advice",
        f"evaluation takes {many(rows, 'row')} at once, training {micro}",
        "evaluation keeps no gradients, so it bears at least as many",
        (f"{EVAL_KEY}={micro}",),
        EVAL_KEY,
        f"{MARCO}, per_device_eval_batch_size",
    )


def _batch(facts: Facts, rows: int) -> dict[str, int] | None:
    """The smallest batch of at least `rows` that keeps the micro batch, else any."""
    kept = facts.micro * -(-rows // facts.micro)
    if kept % facts.plan.world_size == 0:
        return {MICRO: facts.micro, ACCUMULATION: kept // facts.micro}
    return batch_of(facts, rows)


RULES: tuple[Rule, ...] = (
    global_batch_small,
    global_batch_large,
    batch_above_rows,
    rows_dropped,
    micro_batch_could_grow,
    evaluation_batch_small,
)
"""Rules of this file, in the order in which they are shown."""
