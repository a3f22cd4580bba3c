"""The training maths: what the trainer will do, counted before it does it. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Every:
    """Something that happens again and again while a run trains: every `steps` steps, which is `share` of an epoch, `count` times."""

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
