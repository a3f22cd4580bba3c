"""When a run saves and when it stops: asked for by a signal, by the clock, by a deadline or by a better evaluation.

All of it happens at the end of an optimizer step, where a checkpoint is exact, and all ranks agree on it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from nothing_tune.engine.journal import Journal

if TYPE_CHECKING:
    from nothing_tune.engine.train import Trainer

SCHEDULER_END = "SLURM_JOB_END_TIME"
"""Environment variable in which Slurm tells when the job will be ended, in Unix seconds."""
FEW_STEPS = 2
"""An attempt that got no further before its deadline says so."""
STEPS_KEPT = 200
"""Durations of steps that are remembered."""


class Cadence(TrainerCallback):
    """Saves and stops a training.

    Attributes:
        requested: Signal that asked to stop; None while nobody did.
        served: True once the training is being ended before its last step.
        reason: Why it was ended: `signal` or `deadline`; None while it was not.
    """

    def __init__(self, trainer: Trainer, journal: Journal, settings: dict[str, Any]) -> None:
        self.trainer, self.journal = trainer, journal
        self.requested: int | None = None
        self.served = False
        self.reason: str | None = None
        minutes = settings.get("max_loss_minutes")
        self.every_s = float(minutes) * 60 if minutes else None
        self.overhead = float(settings.get("max_overhead") or 0.01)
        self.deadline = deadline(settings.get("deadline_s"))
        self.durations: deque[float] = deque(maxlen=STEPS_KEPT)
        self.evaluation_s = 0.0
        self._group: Any = None
        self._step_began = self._evaluation_began = 0.0
        self._at_epoch_end = False
        self._told = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clocks; ranks get a channel of their own, so that agreeing does not wait for a GPU."""
        self._step_began = self._evaluation_began = time.monotonic()
        self.trainer.saver.saved_at = time.monotonic()
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decides, with the other ranks, whether to stop or to save here."""
        self.trainer.saver.poll()
        now = time.monotonic()
        self.durations.append(now - self._step_began)
        self._step_began = self._evaluation_began = now
        self.journal.status(step_s=self.step_s())
        number, late, due = self._agree(self.requested or 0, int(self._late(now)), int(self._due(now)))
        if (number or late) and state.global_step < state.max_steps:
            self.served, self.reason = True, "signal" if number else "deadline"
            self.requested = number or signal.SIGTERM
            if self.reason == "deadline" and len(self.durations) <= FEW_STEPS:
                self.journal.warn(
                    f"the deadline left time for {len(self.durations)} {'step' if len(self.durations) == 1 else 'steps'} "
                    f"after {time.time() - self.journal.get('started', time.time()):.0f} s of starting",
                    "a later deadline gets further between two starts",
                )
            control.should_training_stop = True
            if not epoch_ends(state):
                control.should_save = True
                self.trainer.saver.reason = "stop"
        elif due:
            if epoch_ends(state):  # what is due at the end of the epoch belongs into the same checkpoint
                self._at_epoch_end = True
            else:
                control.should_save = True
                self.trainer.saver.reason = "time"

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Lets what is due at the end of an epoch happen; a run that is being stopped does nothing else."""
        if not self.served:
            if self._at_epoch_end and self.trainer.saver.saved_step != state.global_step:
                control.should_save = True
                self.trainer.saver.reason = "time"
            self._at_epoch_end = False
            return
        if epoch_ends(state):  # evaluation due at the end of the epoch still happens, as it would have
            control.should_save = self.trainer.saver.saved_step != state.global_step or control.should_evaluate
            self.trainer.saver.reason = "stop"
        else:
            control.should_evaluate = control.should_save = control.should_log = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Saves where the evaluation is the best so far."""
        self.evaluation_s = time.monotonic() - self._evaluation_began
        self._evaluation_began = time.monotonic()
        if not state.global_step:
            return
        best = self.trainer.best()
        if best is not None and best["step"] == state.global_step and not control.should_save:
            control.should_save = True
            self.trainer.saver.reason = "best"

    def step_s(self, quantile: float = 0.5) -> float:
        """Seconds that a step took, as a quantile of the last ones; 0 before the first."""
        ordered = sorted(self.durations)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0.0

    def _due(self, now: float) -> bool:
        if self.every_s is None:
            return False
        hold_s = self.trainer.saver.hold_s
        wait_s = max(self.every_s, hold_s / self.overhead)
        if wait_s > self.every_s and not self._told:
            self._told = True
            self.journal.warn(
                f"saving holds the training up for {hold_s:.1f} s, so it is done every {wait_s / 60:.0f} minutes "
                f"instead of every {self.every_s / 60:g}",
                f"checkpoint.max_overhead allows {self.overhead:.1%} of the time; raise it to lose less when the run is killed",
            )
        return now - self.trainer.saver.saved_at >= wait_s

    def _late(self, now: float) -> bool:
        """Whether another step and the save after it may not be done before the deadline."""
        if self.deadline is None:
            return False
        needs_s = (
            2 * self.step_s(0.95) + 3 * (self.trainer.saver.hold_s + self.trainer.saver.commit_s) + self.evaluation_s
        )
        return time.time() + needs_s >= self.deadline

    def _agree(self, number: int, late: int, due: int) -> tuple[int, int, int]:
        """The largest of all ranks' values; the clock is that of rank 0."""
        if self._group is None:
            return number, late, due
        first = self.trainer.args.process_index == 0
        values = torch.tensor([number, late if first else 0, due if first else 0])
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return int(values[0]), int(values[1]), int(values[2])


def deadline(seconds: Any) -> float | None:
    """When the run has to be over, in Unix seconds: `seconds` after the engine began, or when the scheduler says; None for never."""
    ends = []
    if seconds:
        ends.append(float(os.environ.get("TUNE_STARTED") or time.time()) + float(seconds))
    if os.environ.get(SCHEDULER_END, "").isdigit():
        ends.append(float(os.environ[SCHEDULER_END]))
    return min(ends, default=None)


def epoch_ends(state: Any) -> bool:
    """Whether the step that has just ended was the last of an epoch."""
    return state.epoch is not None and float(state.epoch).is_integer()
