"""Whether a step fits a GPU, how long its rows may be, and the nearest changes that would make it fit or use it better. Pure.

The rows of an optimizer step never change: a smaller micro batch means more accumulation. Only where a step asks for more rows
than there are, it gets fewer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nothing_tune.plan import batch
from nothing_tune.plan.architecture import Shape, Unlisted
from nothing_tune.plan.memory.arithmetic import estimate
from nothing_tune.plan.memory.levers import LEVERS, MICRO_COST, length_of, with_, words_of
from nothing_tune.plan.memory.model import Estimate
from nothing_tune.plan.memory.setting import checkpoints
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import Rows

USABLE = 0.975
"""Share of the data sheet's bytes that a program sees: 14,912 MiB of a T4's 16 GB (fitcheck 0.3.0 README); others have more."""
LONGEST = 131_072
"""Tokens at which the search for the longest row ends where the model has no limit of its own."""
STEP = 64
"""Tokens between lengths that are tried."""
STEP_ROWS = 8
"""Rows of a step where it asks for more than there are: the fewest that Nothing-GPT and Marco take."""
MOST = 5
"""Changes that are offered."""
FITS, TOO_BIG, UNKNOWN = "fits", "does not fit", "cannot tell"


@dataclass(frozen=True)
class Change:
    """Settings that would need less memory, or use the GPU better.

    Attributes:
        words: What to write behind the command, such as `training.activation_checkpointing=true`.
        estimate: The peak with them.
        why: What it costs or gains, one clause.
    """

    words: tuple[str, ...]
    estimate: Estimate
    why: str


def usable(gpu: Mapping[str, Any]) -> int | None:
    """Bytes of `gpu` (facts of recipes/gpus) that training can have; None where it has no memory of its own, or nobody says."""
    memory = gpu.get("memory_gb")
    if gpu.get("kind", "cuda") != "cuda" or not memory:
        return None
    return int(float(memory) * 1e9 * USABLE)


def verdict(estimate: Estimate, gpu: Mapping[str, Any]) -> str:
    """`fits`, `does not fit` by the peak, or `cannot tell` where the GPU's memory is unknown."""
    room = usable(gpu)
    if room is None:
        return UNKNOWN
    return FITS if estimate.peak <= room else TOO_BIG


def rows_at_once(plan: Plan, rows: Rows) -> int:
    """Rows that a process has in memory at once: the micro batch, or all rows where they are fewer.

    With several processes it is the micro batch: accelerate fills the last one up with rows that were there already
    (accelerate 1.15, data_loader.BatchSamplerShard, even_batches). Where packing or splitting makes sequences that are not
    counted, too.
    """
    micro, _ = _batch(plan)
    known = _sequences(plan, rows)
    return micro if known is None or plan.world_size > 1 else max(1, min(micro, known))


def _sequences(plan: Plan, rows: Rows) -> int | None:
    """Sequences of an epoch; None where they are unknown."""
    changes_them = bool(plan.training.get("packing")) or plan.data.get("truncation") == "split"
    return rows.sequences if changes_them else rows.sequences or rows.train


def longest(shape: Shape, plan: Plan, rows: int) -> int | None:
    """Tokens of the longest rows at which a micro batch of `rows` still fits.

    Steps of 64 tokens, below that of one; 0 where not even rows of one token fit. None where nobody can tell, and where rows are
    joined to longer ones (packing, padding-free), whose length says nothing.
    """
    room = usable(plan.gpu)
    if room is None or plan.training.get("packing") or plan.training.get("padding_free"):
        return None
    try:
        found = STEP * _last(shape, plan, rows, room, STEP, (shape.context or LONGEST) // STEP)
        found = found or _last(shape, plan, rows, room, 1, STEP - 1)
    except Unlisted:
        return None
    return min(found, shape.context or found)


def _last(shape: Shape, plan: Plan, rows: int, room: int, step: int, most: int) -> int:
    """The largest number of steps, 0 to `most`, at which rows of so many `step` tokens fit."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = estimate(shape, plan, rows, middle * step).peak <= room
        low, high = (middle, high) if fits else (low, middle)
    return low


def changes(shape: Shape, plan: Plan, rows_known: Rows) -> list[Change]:
    """The nearest changes that fit where the plan does not, those that use the GPU better where it does; nearest first.

    Args:
        rows_known: What is known about the rows; the longest of them decides.

    Returns:
        At most `MOST`, none where nothing helps (`smallest` says how much is needed then) or nobody can tell.
    """
    room = usable(plan.gpu)
    if room is None:
        return []
    try:
        now = _estimate(shape, plan, rows_known)
        if now.peak <= room:
            return list(_better(shape, plan, rows_known, room))
        return list(_smaller(shape, plan, rows_known, room)) or _all(shape, plan, rows_known, room)
    except Unlisted:
        return []


def smallest(shape: Shape, plan: Plan, rows: Rows) -> Estimate | None:
    """The least peak that the changes reach, all of them together that make it less; None where nobody can tell."""
    try:
        return _least(shape, plan, rows)[1]
    except Unlisted:
        return None


def _estimate(shape: Shape, plan: Plan, rows: Rows) -> Estimate:
    return estimate(shape, plan, rows_at_once(plan, rows), length_of(plan, rows))


def _batch(plan: Plan) -> tuple[int, int]:
    """Micro batch and accumulation of a process."""
    micro, accumulation = (int(plan.training.get(k) or batch.DEFAULTS[k]) for k in (batch.MICRO, batch.ACCUMULATION))
    return micro, accumulation


def _step_rows(plan: Plan, rows: Rows) -> int:
    """Rows of a step that a process shall have: as now, or `STEP_ROWS` of all where there are fewer rows than a step asks for."""
    micro, accumulation = _batch(plan)
    known, world = _sequences(plan, rows), max(plan.world_size, 1)
    if not known or micro * accumulation * world <= known:
        return micro * accumulation
    return max(1, min(STEP_ROWS, known) // world)


def _sizes(plan: Plan, micro: int, accumulation: int) -> tuple[str, ...]:
    """Words for micro batch and accumulation of a process; a recipe writes the accumulation of one process for all of them."""
    return words_of(**{batch.MICRO: micro, batch.ACCUMULATION: accumulation * plan.world_size})


def _fewer(plan: Plan, rows: Rows) -> Iterator[tuple[Plan, str]]:
    """`plan` with smaller and smaller micro batches, and what that does to the step."""
    micro, accumulation = _batch(plan)
    step = _step_rows(plan, rows)
    same = step == micro * accumulation
    for size in range(min(micro - 1 if same else micro, step), 0, -1):
        if step % size:
            continue
        other = with_(plan, **{batch.MICRO: size, batch.ACCUMULATION: step // size})
        if same:
            why = f"micro batch {micro} -> {size}, accumulation {accumulation} -> {step // size}: the same rows a step"
        else:
            total = step * max(plan.world_size, 1)
            asked = micro * accumulation * max(plan.world_size, 1)
            why = f"steps of {total} rows instead of {asked:,}, which is more than there are"
        yield other, why


def _smaller(shape: Shape, plan: Plan, rows: Rows, room: int) -> Iterator[Change]:
    """Combinations of levers that fit, fewest and cheapest first; none that holds one already offered."""
    levers = [(cost, i, lever) for i, (cost, lever) in enumerate(LEVERS) if lever(shape, plan, rows)]
    sets: list[tuple[int, int, tuple[int, ...], bool]] = []
    for size in range(min(4, len(levers)) + 1):
        for chosen in itertools.combinations(levers, size):
            for micro in (False, True):
                cost = sum(c for c, _, _ in chosen) + MICRO_COST * micro
                if size + micro:
                    sets.append((size + micro, cost, tuple(i for _, i, _ in chosen), micro))
    found: list[frozenset[int]] = []
    for _, _, chosen_levers, micro in sorted(sets):
        key = frozenset({*chosen_levers, *([-1] if micro else [])})
        if any(have <= key for have in found):
            continue
        change = _apply(shape, plan, rows, room, chosen_levers, micro)
        if change:
            found.append(key)
            yield change
        if len(found) == MOST or (found and len(key) > 2 and len(found) > 2):
            return


def _pulled(
    shape: Shape, plan: Plan, rows: Rows, chosen: Sequence[int]
) -> tuple[Plan, tuple[str, ...], list[str]] | None:
    """`plan` with these levers pulled one after the other, the words that do it and their costs; None where one cannot be."""
    words: tuple[str, ...] = ()
    whys = []
    for number in chosen:
        applied = LEVERS[number][1](shape, plan, rows)
        if applied is None:
            return None
        plan, more, why = applied
        words += more
        whys.append(why)
    return plan, words, whys


def _apply(shape: Shape, plan: Plan, rows: Rows, room: int, chosen: Sequence[int], micro: bool) -> Change | None:
    """The change that pulls these levers, and with `micro` the largest smaller micro batch that then fits; None if it does not."""
    pulled = _pulled(shape, plan, rows, chosen)
    if pulled is None:
        return None
    plan, words, whys = pulled
    try:
        if not micro:
            got = _estimate(shape, plan, rows)
            return Change(words, got, "; ".join(whys)) if got.peak <= room else None
        for other, why in _fewer(plan, rows):
            got = _estimate(shape, other, rows)
            if got.peak <= room:
                return Change(words + _sizes(plan, *_batch(other)), got, "; ".join([*whys, why]))
    except Unlisted:
        return None
    return None


def _least(shape: Shape, plan: Plan, rows: Rows) -> tuple[list[int], Estimate]:
    """The levers that make the peak smaller, in the order they are pulled in, and the peak with all of them and one row at once."""
    plan = [plan, *(other for other, _ in _fewer(plan, rows))][-1]
    best, chosen = _estimate(shape, plan, rows), list[int]()
    while True:
        tried = []
        for number, (_, lever) in enumerate(LEVERS):
            applied = lever(shape, plan, rows)
            if applied is None or number in chosen:
                continue
            try:
                tried.append((_estimate(shape, applied[0], rows), number, applied[0]))
            except Unlisted:
                continue
        least = min(tried, key=lambda one: one[0].peak, default=None)
        if least is None or least[0].peak >= best.peak:
            return chosen, best
        best, plan = least[0], least[2]
        chosen.append(least[1])


def _all(shape: Shape, plan: Plan, rows: Rows, room: int) -> list[Change]:
    """Where no few levers are enough: as many as it takes, without those that it fits without; empty where all are not enough."""
    chosen, least = _least(shape, plan, rows)
    if least.peak > room:
        return []
    for number in sorted(chosen, key=lambda n: -LEVERS[n][0]):
        without = [n for n in chosen if n != number]
        if _apply(shape, plan, rows, room, without, False) or _apply(shape, plan, rows, room, without, True):
            chosen = without
    found = _apply(shape, plan, rows, room, chosen, False) or _apply(shape, plan, rows, room, chosen, True)
    return [found] if found else []


def _better(shape: Shape, plan: Plan, rows: Rows, room: int) -> Iterator[Change]:
    """What would be faster or better and still fits with the whole band."""
    if checkpoints(plan.training):
        other = with_(plan, activation_checkpointing=False)
        got = _estimate(shape, other, rows)
        if got.high <= room:
            yield Change(
                words_of(activation_checkpointing=False), got, "keeps activations: about a fifth less time a step"
            )
    if plan.quantization and plan.peft:
        got = _estimate(shape, replace(plan, quantization=None), rows)
        if got.high <= room:
            yield Change(
                ("quantization=null",), got, "keeps the frozen weights in 16 bits: faster, and nothing is rounded"
            )
    largest = None
    micro, accumulation = _batch(plan)
    known = _sequences(plan, rows)
    for more in range(2, accumulation + 1):
        if known is not None and micro * more > known:
            break
        if accumulation % more == 0:
            sizes = {batch.MICRO: micro * more, batch.ACCUMULATION: accumulation // more}
            got = _estimate(shape, with_(plan, **sizes), rows)
            if got.high > room:
                break
            words = _sizes(plan, micro * more, accumulation // more)
            largest = Change(words, got, "fewer, fuller passes: the same rows a step")
    if largest and largest.estimate.peak > 0:
        yield largest
