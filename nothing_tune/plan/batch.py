"""The batch in memory against the batch that is learned from: rows at once may change, rows a step may not. Pure.

micro batch x accumulation x processes = global batch, the rows of one optimizer step
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nothing_tune.errors import PlanError, Problem

MICRO = "per_device_train_batch_size"
ACCUMULATION = "gradient_accumulation_steps"
EVALUATION = "per_device_eval_batch_size"
CHECKPOINTING = "activation_checkpointing"
DEFAULTS = {MICRO: 8, ACCUMULATION: 1, EVALUATION: 8}
"""What the training library takes where nothing is written."""


def smaller(training: dict[str, Any], oom: str) -> dict[str, Any] | None:
    """The next setting that needs less memory and learns the same, after out of memory in `oom`: `training` or `evaluation`.

    Training: half the micro batch, or the nearest that divides the rows of a step; at one row, activation checkpointing.
    Evaluation: half its batch. None when nothing is left to try.

    Returns:
        `{"training": {key: value}, "what": "micro batch 8 -> 4, accumulation 2 -> 4"}`.
    """
    if oom == "evaluation":
        rows = _rows(training, EVALUATION)
        if rows <= 1:
            return None
        return {"training": {EVALUATION: rows // 2}, "what": f"evaluation batch {rows} -> {rows // 2}"}
    if oom != "training":
        return None
    micro, accumulation = _rows(training, MICRO), _rows(training, ACCUMULATION)
    if micro > 1:
        fewer = _divisor(micro * accumulation, micro // 2)
        more = micro * accumulation // fewer
        return {
            "training": {MICRO: fewer, ACCUMULATION: more},
            "what": f"micro batch {micro} -> {fewer}, accumulation {accumulation} -> {more}",
        }
    if _checkpoints(training):
        return None
    changed: dict[str, Any] = {CHECKPOINTING: True}
    if not (training.get(f"{CHECKPOINTING}_kwargs") or training.get("gradient_checkpointing_kwargs")):
        changed[f"{CHECKPOINTING}_kwargs"] = {"use_reentrant": False}
    return {"training": changed, "what": "activation checkpointing off -> on"}


def adjusted(training: dict[str, Any], changes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """`training` with `changes` (`{key: value}`, oldest first) over it, the rows of a step as they are in `training`.

    The plan may have been made anew for another number of processes since: the micro batch then stays small, and the
    accumulation follows.
    """
    over: dict[str, Any] = {}
    for change in changes:
        over |= change
    out = {**training, **over}
    if MICRO in over or ACCUMULATION in over:
        rows = _rows(training, MICRO) * _rows(training, ACCUMULATION)
        micro = _divisor(rows, min(_rows(out, MICRO), _rows(training, MICRO)))
        out |= {MICRO: micro, ACCUMULATION: rows // micro}
    return out


def spread(training: dict[str, Any], world_size: int) -> dict[str, Any]:
    """Micro batch and accumulation for each of `world_size` processes, so that a step learns from as many rows as written for one.

    The micro batch is kept where it can be; `PlanError` where the rows cannot be shared evenly.
    """
    micro, accumulation = _rows(training, MICRO), _rows(training, ACCUMULATION)
    rows = micro * accumulation
    if world_size < 1 or rows % world_size:
        fits = [str(n) for n in range(1, min(rows, 64) + 1) if rows % n == 0]
        raise PlanError(
            Problem(
                f"{rows} rows a step (micro batch {micro} x accumulation {accumulation}) cannot be shared evenly by {world_size} processes",
                key=f"training.{ACCUMULATION}",
                hint=f"make it a multiple of {max(world_size, 1)}, or train with {', '.join(fits)} processes",
            )
        )
    share = rows // world_size
    kept = _divisor(share, micro)
    return {MICRO: kept, ACCUMULATION: share // kept}


def _rows(training: dict[str, Any], key: str) -> int:
    value = training.get(key)
    return int(value) if value else DEFAULTS[key]


def _divisor(rows: int, at_most: int) -> int:
    """The largest divisor of `rows` that is not above `at_most`."""
    return next(n for n in range(max(1, min(at_most, rows)), 0, -1) if rows % n == 0)


def _checkpoints(training: dict[str, Any]) -> bool:
    """Whether activations are recomputed; the old name counts where the new one is not written, and TRL has it on by default."""
    value = training.get(CHECKPOINTING)
    return bool(value if value is not None else training.get("gradient_checkpointing", True))
