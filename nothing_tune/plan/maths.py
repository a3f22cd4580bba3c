"""The training maths: what the trainer will do, counted before it does it. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import COUNTED, GIVEN, TOKENISED, Rows
from nothing_tune.plan.steps import steps


@dataclass(frozen=True)
class Every:
    """What happens again and again while a run trains: every `steps` steps, which is `share` of an epoch, `count` times in all."""

    steps: int
    share: float
    count: int


@dataclass(frozen=True)
class Maths:
    """The training maths of a run, per `steps.steps` exactly as the Trainer counts.

    Attributes:
        rows: Training rows of an epoch.
        sequences: Training sequences of an epoch; `rows` unless packing or splitting changes them.
        exact: Whether `sequences` were counted from tokens or need no counting (False: packing of untokenised rows, see `note`).
        note: How the rows are known, one clause.
        micro: Sequences a process handles at once.
        accumulation: Micro batches a step.
        world: Processes that train together.
        global_batch: micro x accumulation x world.
        per_epoch: Optimizer steps of an epoch.
        total: Optimizer steps of the run.
        epochs: Passes over the data.
        warmup: Steps of warmup.
        evaluations: None where nothing is evaluated.
        saves: None where nothing is saved by steps or epochs.
        dropped: Sequences left out at the end of each epoch (`dataloader_drop_last`).
        last: Sequences in the last, smaller step of an epoch; `global_batch` where none is smaller.
        tokens_a_step: Mean tokens that a step learns from, padding not counted; None where tokens are unknown.
        tokens: Tokens of the whole run; None where unknown.
    """

    rows: int
    sequences: int
    exact: bool
    note: str
    micro: int
    accumulation: int
    world: int
    global_batch: int
    per_epoch: int
    total: int
    epochs: float
    warmup: int
    evaluations: Every | None
    saves: Every | None
    dropped: int
    last: int
    tokens_a_step: float | None
    tokens: int | None


NOTES = {
    TOKENISED: "counted from the tokens that will be trained on",
    COUNTED: "counted in the data, without its tokens",
    GIVEN: "as given by --rows",
}
PACKED = "before packing, which joins rows: the steps are fewer, by how much only the tokens tell"


def maths(rows: Rows, plan: Plan) -> Maths | None:
    """What the trainer will do with `rows` as `plan` says; None where the number of rows is unknown or zero."""
    if not rows.train:
        return None
    training, world = plan.training, plan.world_size
    changes = bool(training.get("packing")) or plan.data.get("truncation") == "split"
    exact = rows.sequences is not None or not changes
    sequences = rows.sequences or rows.train
    counted = steps(sequences, training, world)
    micro = int(training.get("per_device_train_batch_size") or 8)
    accumulation = int(training.get("gradient_accumulation_steps") or 1)
    per_epoch, total, epochs, batch = (counted[key] for key in ("per_epoch", "total", "epochs", "global_batch"))
    used = sequences - sequences % (micro * world) if training.get("dataloader_drop_last") else sequences
    tokens = rows.tokens * used / sequences if rows.tokens else None
    return Maths(
        rows=rows.train,
        sequences=sequences,
        exact=exact,
        note=NOTES[rows.source] if exact else f"{NOTES[rows.source]}; {PACKED}",
        micro=micro,
        accumulation=accumulation,
        world=world,
        global_batch=batch,
        per_epoch=per_epoch,
        total=total,
        epochs=epochs,
        warmup=warmup(training, total),
        evaluations=_evaluations(plan, rows, per_epoch, total),
        saves=_every("save", training, per_epoch, total),
        dropped=sequences - used,
        last=min(batch, used - batch * (per_epoch - 1)) if used else 0,
        tokens_a_step=tokens / per_epoch if tokens else None,
        tokens=round(tokens * epochs) if tokens else None,
    )


def warmup(training: Mapping[str, Any], total: int) -> int:
    """Steps of warmup, of `total` steps: `warmup_steps` below 1 is a share (rounded up), from 1 a number, as in transformers 5.23."""
    steps_ = float(training.get("warmup_steps") or 0)
    return int(steps_) if steps_ >= 1 else math.ceil(total * steps_)


def _evaluations(plan: Plan, rows: Rows, per_epoch: int, total: int) -> Every | None:
    if rows.eval == 0 or not plan.data.get("eval"):
        return None
    found = _every("eval", plan.training, per_epoch, total)
    if found and plan.training.get("eval_on_start"):
        return Every(found.steps, found.share, found.count + 1)
    return found


def _every(what: str, training: Mapping[str, Any], per_epoch: int, total: int) -> Every | None:
    """How often `eval` or `save` is due: at its multiples and at the end of the run, or at the end of each epoch."""
    strategy = str(training.get(f"{what}_strategy") or ("no" if what == "eval" else "steps"))
    delay = float(training.get("eval_delay") or 0) if what == "eval" else 0.0
    if strategy == "epoch":
        ends = [*range(1, total // per_epoch + 1), *([total / per_epoch] if total % per_epoch else [])]
        return Every(per_epoch, 1.0, sum(end >= delay for end in ends))
    if strategy != "steps":
        return None
    written = float(training.get(f"{what}_steps") or (500 if what == "save" else training.get("logging_steps") or 500))
    each = math.ceil(total * written) if written < 1 else int(written)
    due = {*range(each, total + 1, each), total}
    return Every(each, each / per_epoch, sum(step >= delay for step in due))
