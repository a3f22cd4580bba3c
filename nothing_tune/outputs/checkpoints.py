"""Which weights of a run are meant: what it handed over, or one of its committed checkpoints. Light."""

from __future__ import annotations

from pathlib import Path

from nothing_tune.artifacts import Run, checkpoint
from nothing_tune.errors import StorageError, UsageError

HANDED_OVER = "handed-over"
BESIDE_THE_WEIGHTS = "README.md"
"""The one file of a folder that people may write in without its weights being doubted."""


def handed_over(run: Run) -> Path:
    """The folder that the run handed over, looked at.

    Raises:
        UsageError: There is none yet.
        StorageError: It is damaged.
    """
    folder = run.adapter
    if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise UsageError(
            f"run {run.id} has handed nothing over yet: it is {run.state()}",
            hint=f"tune resume {run.id} finishes it"
            + (
                f"; --checkpoint last takes what there is ({others(run)})"
                if checkpoint.complete(run.checkpoints)
                else ""
            ),
        )
    if (folder / checkpoint.COMMIT).is_file():
        refuse_damaged(run, folder)
    return folder


def committed(run: Run, which: str) -> Path:
    """The folder of a checkpoint, looked at.

    Args:
        which: `last`, `best`, or the optimizer step.

    Raises:
        UsageError: There is none such.
        StorageError: It is damaged.
    """
    there = checkpoint.complete(run.checkpoints)
    if not there:
        raise UsageError(
            f"run {run.id} has no checkpoint yet: it is {run.state()}", hint=f"tune resume {run.id} goes on"
        )
    if which == "last":
        newest, faults = checkpoint.newest(run.checkpoints)
        if newest is None:
            raise StorageError(f"no checkpoint of run {run.id} is whole: {faults[0][0].name}: {faults[0][1]}")
        return newest
    if which == "best":
        step = _best(run)
        if step is None:
            raise UsageError(f"run {run.id} has no best checkpoint: it has not evaluated", hint=others(run))
    elif which.isdigit():
        step = int(which)
    else:
        raise UsageError(f"{which!r} is no checkpoint", hint=f"best, last, or a step; {others(run)}")
    if step not in there:
        kind = "the best step" if which == "best" else "step"
        raise UsageError(f"run {run.id} keeps no checkpoint of {kind} {step}", hint=others(run))
    folder = run.checkpoints / f"checkpoint-{step}"
    refuse_damaged(run, folder)
    return folder


def refuse_damaged(run: Run, folder: Path) -> None:
    """`StorageError` where a folder of weights is not what was committed."""
    why = checkpoint.fault(folder)
    if why and not why.startswith(BESIDE_THE_WEIGHTS):
        raise StorageError(f"{folder.name} of run {run.id} is damaged: {why}", hint=others(run))


def others(run: Run) -> str:
    """Which checkpoints there are, as a hint."""
    there = checkpoint.complete(run.checkpoints)
    return f"its checkpoints: {', '.join(map(str, there))}" if there else "it has no checkpoints"


def _best(run: Run) -> int | None:
    """Step of the best checkpoint, as status and events tell."""
    told = [run.status().get("best_step"), (run.last_event("best") or {}).get("step")]
    told += [e.get("step") for e, _ in run.events() if e.get("type") == "checkpoint" and e.get("best")][-1:]
    return next((step for step in told if isinstance(step, int)), None)
