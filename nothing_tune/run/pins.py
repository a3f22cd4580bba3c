"""Pins checkpoints: rotation spares them, and a run that has some is not removed."""

from __future__ import annotations

from nothing_tune.artifacts import Run, checkpoint, write_json
from nothing_tune.errors import StorageError, UsageError


def pin(run: Run, step: int | None = None) -> list[int]:
    """Pins the checkpoint of `step` (None: the newest complete one) and returns all pinned steps.

    Raises:
        UsageError: There is no such checkpoint; names those there are.
        StorageError: The checkpoint is damaged, or the disk refuses.
    """
    chosen = complete(run, step)
    before = checkpoint.pinned(run.path)
    write_json(run.path / "pins.json", {"steps": sorted({*before, chosen})})
    if not (run.checkpoints / f"checkpoint-{chosen}").is_dir():  # a live run's rotation may have been quicker
        write_json(run.path / "pins.json", {"steps": before})
        raise UsageError(f"run {run.id} has removed checkpoint-{chosen} by now", hint=there(run))
    return sorted({*before, chosen})


def unpin(run: Run, step: int | None = None) -> list[int]:
    """Lets go of the pinned `step` (None: of all) and returns the steps that stay pinned. `UsageError` when it is not pinned."""
    before = checkpoint.pinned(run.path)
    if step is not None and step not in before:
        pins = ", ".join(map(str, before)) or "none"
        raise UsageError(f"step {step} of run {run.id} is not pinned", hint=f"pinned: {pins}")
    left = [] if step is None else [s for s in before if s != step]
    write_json(run.path / "pins.json", {"steps": left})
    return left


def complete(run: Run, step: int | None) -> int:
    """The step of a checkpoint that verifies: `step`, or the newest one for None.

    Raises:
        UsageError: There is no such checkpoint; names those there are.
        StorageError: The checkpoint of `step` is damaged.
    """
    if step is None:
        folder, faults = checkpoint.newest(run.checkpoints)
        if folder is None:
            hint = "; ".join(f"{path.name}: {why}" for path, why in faults) or f"tune resume {run.id} trains it on"
            raise UsageError(f"run {run.id} has no complete checkpoint", hint=hint)
        return int(folder.name.rsplit("-", 1)[1])
    if step not in checkpoint.steps(run.checkpoints):
        raise UsageError(f"run {run.id} has no checkpoint of step {step}", hint=there(run))
    why = checkpoint.fault(run.checkpoints / f"checkpoint-{step}")
    if why:
        raise StorageError(f"checkpoint-{step} of run {run.id} is not complete: {why}", hint=there(run))
    return step


def there(run: Run) -> str:
    """`it has checkpoints of the steps 10, 20`, for a hint."""
    steps = checkpoint.steps(run.checkpoints)
    if not steps:
        return "it has no checkpoint"
    return f"it has {'checkpoints of the steps' if len(steps) > 1 else 'one of step'} {', '.join(map(str, steps))}"
