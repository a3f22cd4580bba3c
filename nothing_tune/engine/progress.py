"""Trainer callbacks: they report to the journal, and stop early."""

from __future__ import annotations

import math
import resource
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from nothing_tune.engine.journal import Journal

if TYPE_CHECKING:
    from nothing_tune.engine.train import Trainer

FINAL_KEYS = frozenset({"train_runtime", "total_flos", "train_loss"})


class Progress(TrainerCallback):
    """Writes every log, evaluation and step to events.jsonl and status.json."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.trainer: Trainer | None = None
        self.first_step_at: float | None = None
        self._clock = time.monotonic()
        self._start_step = 0
        self._last_tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock; the run is running."""
        self._clock = self._began = time.monotonic()
        self._start_step = state.global_step
        assert self.trainer is not None
        self._last_tokens = self.trainer._total_train_tokens
        self.journal.status(step=state.global_step, total_steps=state.max_steps, epoch=state.epoch or 0.0)
        self.journal.state("running")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keeps the step in the status."""
        if self.first_step_at is None:
            self.first_step_at = time.time()
        self.journal.status(step=state.global_step, epoch=state.epoch)
        self.journal.progress()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Reports a log of the training, with speed, memory and time left."""
        metrics = {k: v for k, v in (logs or {}).items() if k not in ("epoch", "step")}
        if FINAL_KEYS & metrics.keys():
            return
        if any(k.startswith("eval_") for k in metrics):
            return  # on_evaluate reports these
        now, trainer = time.monotonic(), self.trainer
        assert trainer is not None
        tokens = trainer._total_train_tokens
        elapsed = max(now - self._clock, 1e-9)
        done = state.global_step - self._start_step
        rate = (now - self._began) / max(done, 1)
        extra = {
            "tokens_per_s": (tokens - self._last_tokens) / elapsed,
            "num_tokens": tokens,
            "memory_gib": memory_gib(),
            "eta_s": rate * max(state.max_steps - state.global_step, 0),
        }
        self._clock, self._last_tokens = now, tokens
        self.journal.event("log", step=state.global_step, epoch=state.epoch, metrics=metrics, **extra)
        if "loss" in metrics:
            self.journal.status(loss=metrics["loss"])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any) -> None:
        """Reports an evaluation."""
        found = {k: v for k, v in (metrics or {}).items() if k != "epoch"}
        self.journal.event("eval", step=state.global_step, epoch=state.epoch, metrics=found)
        self.journal.status(eval_loss=found.get("eval_loss"))


class EarlyStop(TrainerCallback):
    """Stops when the metric has not improved by more than `threshold` in `patience` evaluations, as transformers counts.

    The count is made anew from the history that the checkpoint carries, so that a resumed run stops at the same step.
    """

    def __init__(self, journal: Journal, patience: int, threshold: float, metric: str, greater: bool) -> None:
        self.journal = journal
        self.patience, self.threshold, self.metric, self.greater = patience, threshold, metric, greater

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Counts, and stops when patience is used up."""
        values = [row[self.metric] for row in state.log_history if self.metric in row]
        waited = patience_used(values, self.threshold, self.greater)
        if waited >= self.patience:
            control.should_training_stop = True
            self.journal.event(
                "early_stop", step=state.global_step, epoch=state.epoch,
                what=f"{self.metric} has not improved by more than {self.threshold} in {waited} evaluations",
            )  # fmt: skip


def patience_used(values: list[float], threshold: float, greater: bool) -> int:
    """Evaluations since the last one that was better than the best before it by more than `threshold`."""
    best: float | None = None
    waited = 0
    for value in values:
        better = best is None or (value > best if greater else value < best)
        if best is None or (better and abs(value - best) > threshold):
            waited = 0
        else:
            waited += 1
        if better:
            best = value
    return waited


def best_entry(history: list[dict[str, Any]], metric: str, greater: bool) -> dict[str, Any] | None:
    """The first entry of a log history with the best finite `metric`; None when none has it."""
    best: dict[str, Any] | None = None
    for row in history:
        value = row.get(metric)
        if value is None or not math.isfinite(value):
            continue
        if best is None or (value > best[metric] if greater else value < best[metric]):
            best = row
    return best


def memory_gib() -> float:
    """Peak memory so far in GiB: what torch allocated on the GPU, or the resident size of the process on a CPU."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
