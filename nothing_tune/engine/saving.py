"""`Saver`: writes and commits the checkpoints of one training.

The files are written while the training waits; flushing, hashing, the commit and the rotation happen in a thread beside it.
What goes wrong there is raised at the end of the next step.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nothing_tune.artifacts import attempts, checkpoint, write_json
from nothing_tune.engine.failures import explain
from nothing_tune.engine.journal import Journal
from nothing_tune.errors import StorageError

if TYPE_CHECKING:
    from nothing_tune.engine.train import Trainer

SPARE_BYTES = 16 * 2**20
"""Room that a save leaves free on the disk, in bytes, on top of what the last checkpoint took."""
HOOK_S = 600
"""Longest time, in seconds, that `checkpoint.on_commit` may take."""


class Saver:
    """Saves for one trainer.

    Attributes:
        keep: Complete checkpoints kept next to the best one and the pinned ones.
        on_commit: Command that runs after each commit; None for none.
        settings, fingerprints: What a resume compares, see `fingerprints`.
        saved_step: Step of the checkpoint written last; None before the first.
        saved_at: When that was, on the monotonic clock.
        reason: Why the next checkpoint is written: steps, time, best, stop.
        hold_s: Seconds for which the last save held the training up; 0 before the first.
        commit_s: Seconds that its commit took beside the training.
    """

    def __init__(self, journal: Journal, keep: int, on_commit: str | None, settings: dict[str, Any]) -> None:
        self.journal, self.keep, self.on_commit, self.settings = journal, keep, on_commit, settings
        self.fingerprints: dict[str, Any] = {}
        self.saved_step: int | None = None
        self.saved_at = time.monotonic()
        self.reason = "steps"
        self.hold_s = self.commit_s = 0.0
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: Future[None] | None = None

    def save(self, trainer: Trainer, stock: Callable[[], None]) -> None:
        """Saves `trainer`; `stock` writes what the Trainer itself writes.

        Raises:
            StorageError: The disk refuses, also after everything that can be spared was deleted.
        """
        self.settle()
        began = time.monotonic()
        step, alone = trainer.state.global_step, trainer.args.world_size == 1
        folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
        first = trainer.args.process_index == 0
        if first and not has_room(folder.parent, self._bytes):
            self._free_room(trainer)
        try:
            self._write(trainer, folder, stock, first)
        except Exception as error:
            if not alone or not isinstance(explain(error), StorageError):
                raise
            self._free_room(trainer)
            self._write(trainer, folder, stock, first)
        if not alone:
            torch.distributed.barrier()
        self.saved_step = step
        reason, self.reason = self.reason, "steps"
        if not first:
            return
        for name in checkpoint.UNWANTED:
            (folder / name).unlink(missing_ok=True)
        need_parts(folder, trainer.args.world_size)
        entry = trainer.best()
        best = int(entry["step"]) if entry else None
        self.hold_s, self.saved_at = time.monotonic() - began, time.monotonic()
        event = {
            "step": step,
            "epoch": trainer.state.epoch,
            "path": str(folder.relative_to(self.journal.run.path)),
            "best": best == step,
            "reason": reason,
            "hold_s": self.hold_s,
        }
        self._pending = self._thread.submit(self._commit, folder, step, best, trainer.args.world_size, event)

    def poll(self) -> None:
        """Raises what went wrong with the last checkpoint, if it is known by now; waits for nothing."""
        if self._pending is not None and self._pending.done():
            self.settle()

    def settle(self) -> None:
        """Waits until the last checkpoint is committed; raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, trainer: Trainer, folder: Path, stock: Callable[[], None], first: bool) -> None:
        """Writes the files of a checkpoint; what stood there before stands there again when that fails."""
        if first:
            checkpoint.make_way(folder)
        try:
            stock()
            write_json(folder / state_file(trainer.args), trainer.tune_state(), durable=False)
        except BaseException:
            if first:
                checkpoint.remove(folder)
                checkpoint.recover(folder.parent, self.journal.attempt)
            raise

    def _commit(self, folder: Path, step: int, best: int | None, world_size: int, event: dict[str, Any]) -> None:
        began = time.monotonic()
        journal, owner = self.journal, os.environ.get("TUNE_OWNER", "")
        self._bytes = checkpoint.commit(
            folder,
            step=step,
            attempt=journal.attempt,
            run=journal.run.id,
            owner=owner,
            world_size=world_size,
            settings=self.settings,
            fingerprints=self.fingerprints,
            fence=lambda: attempts.owned(journal.run, journal.attempt, owner) if owner else None,
        )
        checkpoint.settle(folder)
        kept = not run_hook(self.on_commit, folder, journal)
        write_json(folder.parent / checkpoint.LATEST, {"step": step, "path": folder.name}, durable=False)
        removed = [] if kept else self._rotate(folder.parent, self.keep, best)
        self.commit_s = time.monotonic() - began
        journal.event("checkpoint", **event, commit_s=self.commit_s, bytes=self._bytes, removed=removed)
        if best is not None:
            journal.status(best_step=best)

    def _free_room(self, trainer: Trainer) -> None:
        """Deletes what can be spared: all but two checkpoints, the best and the pinned ones, and what was set aside."""
        checkpoints = Path(trainer.args.output_dir)
        entry = trainer.best()
        removed = self._rotate(checkpoints, 2, int(entry["step"]) if entry else None)
        for name in checkpoint.torn(checkpoints):
            checkpoint.remove(checkpoints / name)
            removed.append(name)
        if removed:
            with contextlib.suppress(OSError):  # the disk may be too full to say so
                self.journal.warn(
                    f"the disk is full: {', '.join(removed)} removed to make room",
                    "free some space before it is not enough",
                )

    def _rotate(self, checkpoints: Path, keep: int, best: int | None) -> list[str]:
        pinned = checkpoint.pinned(self.journal.run.path)
        return checkpoint.rotate(checkpoints, keep=keep, best=best, pinned=pinned)


def has_room(checkpoints: Path, needed: int) -> bool:
    """Whether `needed` bytes (what the last checkpoint took) and some more are free."""
    return not needed or not checkpoints.is_dir() or shutil.disk_usage(checkpoints).free >= needed + SPARE_BYTES


def need_parts(folder: Path, world_size: int) -> None:
    """`StorageError` when the Trainer left out a part without which the run could not go on exactly."""
    random = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    wanted = ["trainer_state.json", "optimizer.pt", "scheduler.pt", checkpoint.STATE, *random]
    absent = [name for name in wanted if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        absent.append("the weights as safetensors")
    if absent:
        raise StorageError(
            f"{folder.name} lacks {', '.join(absent)}: it could not be resumed exactly, so it is no checkpoint",
            hint="leave out training.save_only_model",
        )


def run_hook(command: str | None, folder: Path, journal: Journal) -> bool:
    """Runs `checkpoint.on_commit` on a complete checkpoint; False, and a warning, when it fails."""
    if not command:
        return True
    run = journal.run.path
    environment = {**os.environ, "TUNE_RUN_DIR": str(run), "TUNE_CHECKPOINT": str(folder)}
    try:
        done = subprocess.run(
            shlex.split(command), cwd=run, env=environment, timeout=HOOK_S, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        said = (done.stderr or done.stdout).strip().splitlines()
        why = f"it ended with {done.returncode}{f': {said[-1]}' if said else ''}" if done.returncode else ""
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        journal.warn(
            f"checkpoint.on_commit failed for {folder.name}: {why}", "older checkpoints are kept until it succeeds"
        )
    return not why


def state_file(args: Any) -> str:
    """Name of this rank's own state in a checkpoint."""
    return checkpoint.STATE if args.process_index == 0 else f"tune-state-{args.process_index}.json"
