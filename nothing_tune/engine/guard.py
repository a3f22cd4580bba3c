"""What is looked at before and while a run trains: the longest batch rehearsed, steps that are not finite, losses that jump."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
import time
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from nothing_tune.engine.journal import Journal
from nothing_tune.engine.progress import memory_gib

if TYPE_CHECKING:
    from nothing_tune.engine.train import Trainer

SPIKE_WINDOW = 50
"""Logged losses whose median a new one is compared with."""
SPIKE_AFTER = 10
"""Losses that must have been logged before one counts as a spike."""
ROWS_SHOWN = 8
PLACES_SHOWN = 8
WORDS_SHOWN = 60


class Rehearsal(TrainerCallback):
    """Runs the longest batch forwards and backwards before the first step, so that out of memory shows in the first minute.

    Nothing of it stays: gradients, counters and random numbers are put back.
    """

    def __init__(self, trainer: Trainer, journal: Journal) -> None:
        self.trainer, self.journal = trainer, journal

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Rehearses a training batch, and an evaluation batch where the run evaluates."""
        trainer = self.trainer
        began = time.monotonic()
        rows = longest(trainer.train_dataset, int(args.per_device_train_batch_size))
        with random_state_kept(), counters_kept(trainer):
            ballast = optimizer_ballast(trainer)
            inputs = trainer.data_collator([trainer.train_dataset[i] for i in rows])
            items = (inputs["labels"] != -100).sum().to(args.device) if "labels" in inputs else None
            trainer.current_gradient_accumulation_steps = (
                1  # set by the loop that has not begun; losses of experts read it
            )
            trainer.accelerator.gradient_state._set_sync_gradients(True)
            trainer.training_step(trainer.model_wrapped, inputs, items)
            trainer.model_wrapped.zero_grad()
            tokens = int(inputs["input_ids"].numel())
            del ballast
            if trainer.eval_dataset is not None and str(args.eval_strategy) not in ("no", "IntervalStrategy.NO"):
                with trainer.evaluating():
                    chosen = longest(trainer.eval_dataset, int(args.per_device_eval_batch_size))
                    batch = trainer.data_collator([trainer.eval_dataset[i] for i in chosen])
                    trainer.model.eval()
                    trainer.prediction_step(trainer.model_wrapped, batch, prediction_loss_only=True)
                    trainer.model.train()
        self.journal.event(
            "rehearsal", tokens=tokens, rows=rows, seconds=time.monotonic() - began, memory_gib=memory_gib()
        )  # fmt: skip


class Spikes(TrainerCallback):
    """Warns when a logged loss is many times the median of those before it, and names the rows of that step."""

    def __init__(self, trainer: Trainer, journal: Journal, factor: float) -> None:
        self.trainer, self.journal, self.factor = trainer, journal, factor

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Compares the newest loss."""
        loss = (logs or {}).get("loss")
        before = [row["loss"] for row in state.log_history if "loss" in row and row["step"] < state.global_step]
        if loss is None or len(before) < SPIKE_AFTER:
            return
        usual = median(before[-SPIKE_WINDOW:])
        if loss > self.factor * usual > 0:
            rows = rows_of_step(self.trainer, state.global_step)
            self.journal.event("spike", step=state.global_step, epoch=state.epoch, loss=loss, median=usual, rows=rows)


def rows_of_step(trainer: Trainer, step: int) -> list[dict[str, Any]]:
    """The sequences that this rank trained on in optimizer step `step` (from 1): `[{"row", "places", "text"}]`, the row counted
    from 0 among the prepared sequences, `places` the `FILE:LINE` of what is in it, the text its beginning. Empty when it
    cannot be told."""
    with contextlib.suppress(Exception), random_state_kept():
        loaders = list(trainer.accelerator._dataloaders)
        loader = trainer.get_train_dataloader()
        trainer.accelerator._dataloaders[:] = loaders
        a_step = int(trainer.args.gradient_accumulation_steps)
        per_epoch = trainer.set_initial_training_values(trainer.args, loader)[1]
        epoch, within = divmod(step - 1, per_epoch)
        loader.set_epoch(epoch)
        batches = itertools.islice(iter(loader.batch_sampler), within * a_step, (within + 1) * a_step)
        rows = [int(i) for batch in batches for i in batch]
        return [{"row": i, "places": trainer.places(i), "text": _text(trainer, i)} for i in rows[:ROWS_SHOWN]]
    return []


def _text(trainer: Trainer, row: int) -> str:
    ids = trainer.train_dataset[row]["input_ids"][:WORDS_SHOWN]
    text = " ".join(trainer.processing_class.decode(ids).split())
    return text if len(text) <= WORDS_SHOWN else f"{text[: WORDS_SHOWN - 1]}…"


def said(rows: list[dict[str, Any]]) -> str:
    """Where rows come from, in one half sentence: `rows.jsonl:12, rows.jsonl:40`; empty for none."""
    places = list(dict.fromkeys(place for row in rows for place in row["places"]))
    more = f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
    return f"{', '.join(places[:PLACES_SHOWN])}{more}"


def longest(dataset: Any, count: int) -> list[int]:
    """Indices of the `count` rows with the most tokens, longest first."""
    lengths: list[int] = []
    for table in dataset.with_format("arrow").iter(batch_size=1000):
        lengths += table["input_ids"].combine_chunks().value_lengths().to_pylist()
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))[:count]


def optimizer_ballast(trainer: Trainer) -> list[torch.Tensor]:
    """As much memory as the optimizer will take at its first step, where it has no state yet: two float32 a trained weight."""
    if trainer.optimizer is None or trainer.optimizer.state:
        return []
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return [torch.empty_like(p, dtype=torch.float32) for p in trained for _ in range(2)]


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Puts all random number generators back to where they were."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def counters_kept(trainer: Trainer) -> Iterator[None]:
    """Puts the trainer's token count and sums back to where they were."""
    metrics, tokens = copy.deepcopy(trainer._metrics), trainer._total_train_tokens
    try:
        yield
    finally:
        trainer._metrics, trainer._total_train_tokens, trainer._loss_is_finite = metrics, tokens, None
