"""Advice on checkpoints: whether the disk holds them, and what a crash would cost."""

from __future__ import annotations

from collections.abc import Iterator

from nothing_tune.plan.advice.facts import MARCO, OURS, Advice, Facts, Rule, count
from nothing_tune.plan.kwargs import DEFAULT_KEEP
from nothing_tune.plan.memory.notes import gib

MOST_LOST_H = 1.0
KEEP, LIMIT, MINUTES = "checkpoint.keep", "training.save_total_limit", "checkpoint.max_loss_minutes"


def checkpoints_larger_than_disk(facts: Facts) -> Iterator[Advice]:
    """Kept at once: the newest, the best besides, and the one that is being written; a rented machine may have a larger disk."""
    size, free = facts.checkpoint_bytes, facts.disk_free
    if not size or free is None:
        return
    keep, best = int(facts.plan.checkpoint.get("keep") or DEFAULT_KEEP), int(bool(facts.plan.checkpoint.get("best")))
    needed = (keep + best + 1) * size
    if needed <= free:
        return
    least = (DEFAULT_KEEP + best + 1) * size
    room = f"make room for {DEFAULT_KEEP + best + 1} of {gib(size)}, {gib(least)} in all, or choose another disk with --runs-dir"
    why = (
        f"{keep} kept{', the best one' if best else ''} and one being written, {gib(size)} each, are {gib(needed)}; "
        f"{gib(free)} are free where runs are kept on this machine"
    )
    if size > free:
        what = f"not one checkpoint fits on this machine's disk: {room}"
        yield Advice("checkpoints-larger-than-disk", "warning", what, why, (), KEEP, OURS)
    elif keep > DEFAULT_KEEP and least <= free:
        what = "the checkpoints that are kept do not fit on this machine's disk"
        words = tuple(f"{key}={DEFAULT_KEEP}" for key in (LIMIT, KEEP) if facts.get(key) is not None)
        source = f"{MARCO}, save_total_limit"
        yield Advice(
            "checkpoints-larger-than-disk", "warning", what, why, words or (f"{KEEP}={DEFAULT_KEEP}",), KEEP, source
        )
    else:
        what = f"the checkpoints do not fit on this machine's disk: {room}"
        yield Advice("checkpoints-larger-than-disk", "warning", what, why, (), KEEP, OURS)


def saves_rare(facts: Facts) -> Iterator[Advice]:
    """What was learned since the last checkpoint is lost in a crash, and rented GPUs are taken away."""
    if facts.hours is None or facts.plan.checkpoint.get("max_loss_minutes") or facts.maths is None:
        return
    saves = facts.maths.saves
    steps = min(saves.steps, facts.maths.total) if saves else facts.maths.total
    lost = facts.hours * steps / facts.maths.total
    if lost <= MOST_LOST_H:
        return
    total = count(facts.maths.total)
    every = f"it saves every {count(saves.steps)} of {total} steps" if saves else "it never saves by steps"
    if saves and saves.steps >= facts.maths.total:
        every = f"the run has {total} steps, and it saves every {count(saves.steps)}: at its end only"
    yield Advice(
        "saves-rare",
        "warning",
        f"a crash may cost {lost:.1f} hours of training",
        f"{every}, and not by time",
        (f"{MINUTES}=10",),
        MINUTES,
        f"{MARCO}, save_steps: safety; {OURS}",
    )


RULES: tuple[Rule, ...] = (checkpoints_larger_than_disk, saves_rare)
"""Rules of this file, in the order in which they are shown."""
