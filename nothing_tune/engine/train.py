"""`Trainer`: TRL's SFTTrainer with committed checkpoints, exact resume, and steps that are not finite left out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from trl import SFTTrainer

from nothing_tune.artifacts import checkpoint, read_json
from nothing_tune.engine import fingerprints, guard, pickles
from nothing_tune.engine.journal import Journal
from nothing_tune.engine.progress import best_entry, patience_used
from nothing_tune.engine.saving import Saver, state_file
from nothing_tune.errors import Diverged, Problem, ResumeRefused
from nothing_tune.plan.model import Plan


class Trainer(SFTTrainer):
    """SFTTrainer, except that checkpoints are committed, verified and restored with the dtypes they were trained in.

    Attributes:
        journal: Where events go.
        saver: Writes and commits checkpoints.
        metric, greater, hand_over_best: How the best checkpoint is told.
        max_non_finite: Steps in a row whose loss or gradient is not finite that end the run.
        places: Where the rows of a training sequence come from, `FILE:LINE` each.
        forked: Whether the checkpoint comes from another run, with other settings.
        first_step: Step at which the run began: that of the parent's checkpoint in a child run that goes on from it, else 0.
        phase: `loading`, `training` or `evaluation`: what runs out of memory when memory runs out.
    """

    journal: Journal
    saver: Saver
    metric = "eval_loss"
    greater = False
    hand_over_best = False
    max_non_finite = 3
    places: Callable[[int], list[str]] = staticmethod(lambda _: [])
    forked = False
    first_step = 0
    phase = "loading"

    _trained_before = 0.0
    _began = 0.0
    _non_finite = 0
    _loss_is_finite: torch.Tensor | None = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: the adapter's own notes are written once, at the end."""

    def best(self) -> dict[str, Any] | None:
        """The history entry (`step`, `epoch`, metric) with the best metric of this run so far; None without evaluations."""
        own = [row for row in self.state.log_history if row.get("step", 0) >= max(1, self.first_step)]
        return best_entry(own, self.metric, self.greater)

    def trained_s(self) -> float:
        """Seconds spent in training so far, earlier attempts included."""
        return self._trained_before + (time.monotonic() - self._began if self._began else 0.0)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Marks what runs as an evaluation; where it fails, the mark stays for whoever asks."""
        before, self.phase = self.phase, "evaluation"
        yield
        self.phase = before

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates as SFTTrainer does."""
        with self.evaluating():
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """One batch of an evaluation; tells that the run is alive."""
        self.journal.progress()
        return super().prediction_step(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro batch; remembers on the device whether its loss was finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        fine = torch.isfinite(loss)
        self._loss_is_finite = fine if self._loss_is_finite is None else self._loss_is_finite & fine
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient's norm. A step whose gradient or loss is not finite leaves the weights alone; too many in a row end the run."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        fine, self._loss_is_finite = self._loss_is_finite, None
        alone = self.args.world_size == 1  # with several ranks the norm is the same everywhere, the loss is not
        loss_is_fine = bool(fine) if fine is not None and alone else True
        scaled = getattr(self.accelerator, "scaler", None) is not None
        norm_is_fine = scaled or bool(
            torch.isfinite(torch.as_tensor(norm))
        )  # the fp16 scaler leaves such steps out itself
        if loss_is_fine and norm_is_fine:
            self._non_finite = 0
            return norm
        if not scaled:
            for parameter in self.model.parameters():
                parameter.grad = None
        self._non_finite += 1
        step = self.state.global_step + 1
        rows = guard.rows_of_step(self, step)
        what = "the loss" if not loss_is_fine else "the gradient"
        self.journal.event(
            "non_finite", step=step, epoch=self.state.epoch, what=what, rows=rows, in_a_row=self._non_finite
        )
        if self._non_finite >= self.max_non_finite:
            raise diverged(
                self, f"{what} was not finite in {self._non_finite} steps in a row, the last is step {step}", rows
            )
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        bad = [n for n, p in self.model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
        if bad:
            what = f"{len(bad)} trained weights are no longer finite at step {self.state.global_step}, first {bad[0]}"
            raise diverged(self, f"{what}: no checkpoint is written", [])
        stock = super()._save_checkpoint
        self.saver.save(self, lambda: stock(model, trial))

    def tune_state(self) -> dict[str, Any]:
        """What the stock checkpoint forgets: tokens counted, sums that a log in progress needs, dtypes and shapes."""
        return {
            "schema": checkpoint.SCHEMA,
            "epoch": self.state.epoch,
            "num_tokens": self._total_train_tokens,
            "loss_since_log": float(self._tr_loss),
            "last_logged_step": self._globalstep_last_logged,
            "total_loss": self._total_loss_scalar,
            "non_finite": self._non_finite,
            "metrics": {
                mode: {k: list(map(float, v)) for k, v in kept.items()} for mode, kept in self._metrics.items()
            },
            "trained_s": self.trained_s(),
            "trainable": trainable_types(self.model),
        }

    def _load_optimizer_and_scheduler(self, resume_from_checkpoint: str | None) -> None:
        """Loads both; in a run that was forked with other settings these hold, not those that the checkpoint brings."""
        fresh = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(resume_from_checkpoint)
        if not self.forked:
            return
        for group, own in zip(self.optimizer.param_groups, fresh, strict=True):
            group.update(own)
        if hasattr(self.lr_scheduler, "base_lrs"):
            self.lr_scheduler.base_lrs = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        follow_longer_curve(self.lr_scheduler)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Loads the weights and gives them back the dtype they are trained in, which PEFT does not keep."""
        target = self.model if model is None else model
        pickles.refuse(Path(resume_from_checkpoint))
        before = {n: p.dtype for n, p in target.named_parameters() if p.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in target.named_parameters():
            if name in before and parameter.dtype != before[name]:
                parameter.data = parameter.data.to(before[name])
        saved = (read_json(Path(resume_from_checkpoint) / checkpoint.STATE) or {}).get("trainable")
        now = trainable_types(target)
        if saved is not None and saved != now:
            other = sorted(n for n in {*saved, *now} if saved.get(n) != now.get(n))
            raise ResumeRefused(
                f"the checkpoint trains other weights than the plan: {len(other)} differ, first {other[0]} "
                f"({saved.get(other[0])} in the checkpoint, {now.get(other[0])} now)",
                hint="resume with the settings that the run was started with",
            )


class Restore(TrainerCallback):
    """Puts back, as training begins, what tune-state.json kept; must come before callbacks that read it."""

    def __init__(self, trainer: Trainer, folder: Path | None) -> None:
        self.trainer, self.folder = trainer, folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Puts everything back where the loop has just set it to zero."""
        self.trainer._began = time.monotonic()
        self.trainer.phase = "training"
        state.compute_steps(args, state.max_steps)  # how often to log may have changed since the checkpoint
        if self.folder is not None:
            put_back(self.trainer, self.folder)
            before = read_json(self.folder / "trainer_state.json")["max_steps"]
            if before != state.max_steps:
                follow_longer_curve(self.trainer.lr_scheduler)
                self.trainer.journal.warn(
                    f"the run goes on to step {state.max_steps} instead of {before}",
                    "the learning rate follows the curve of the new length from here",
                )


def put_back(trainer: Trainer, folder: Path) -> None:
    """Gives `trainer` the counters and sums that the checkpoint in `folder` was written with."""
    own = folder / state_file(trainer.args)
    kept = read_json(own if own.is_file() else folder / checkpoint.STATE)
    trainer._non_finite = kept.get("non_finite", 0)
    trainer.saver.saved_step = trainer.state.global_step
    trainer._total_train_tokens = kept["num_tokens"]
    trainer._tr_loss = torch.tensor(_number(kept["loss_since_log"]), device=trainer.args.device)
    trainer._globalstep_last_logged = kept["last_logged_step"]
    trainer._total_loss_scalar = _number(kept["total_loss"])
    trainer._trained_before = kept["trained_s"]
    for mode, metrics in kept["metrics"].items():
        trainer._metrics[mode].update({k: [_number(x) for x in v] for k, v in metrics.items()})


def _number(value: float | None) -> float:
    """A number of tune-state.json; what was not finite is null there."""
    return float("nan") if value is None else value


def finished(trainer: Trainer, folder: Path, patience: int | None, threshold: float) -> bool:
    """Whether the run had trained to its end when the checkpoint in `folder` was written; if so, `trainer` is put in that state.

    Resuming such a run would train one step too many, as the loop asks only after a step.
    """
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    total = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
    values = [row[trainer.metric] for row in state.log_history if trainer.metric in row]
    stopped_early = bool(patience) and patience_used(values, threshold, trainer.greater) >= int(patience or 0)
    if state.global_step < total and not stopped_early:
        return False
    trainer._load_from_checkpoint(str(folder))
    trainer.state = state
    put_back(trainer, folder)
    return True


def follow_longer_curve(scheduler: Any) -> None:
    """Sets the learning rate to what the scheduler's curve says for its step; the checkpoint holds that of the curve before."""
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        return
    for group, base, curve in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * curve(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def trainable_types(model: Any) -> dict[str, list[Any]]:
    """`{name: [dtype, shape]}` of every weight that is trained, as JSON has it."""
    return {
        n: [str(p.dtype).removeprefix("torch."), list(p.shape)] for n, p in model.named_parameters() if p.requires_grad
    }


def cast_trainable(model: Any, dtype: str | None) -> None:
    """Gives every trained weight `dtype` (a name such as `float32`); None leaves them. fp16 needs it: its scaler wants fp32."""
    if dtype is None:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, dtype))


def settings(trainer: Trainer, plan: Plan, journal: Journal) -> None:
    """Gives the trainer what the plan says about checkpoints."""
    kept = plan.checkpoint
    trainer.journal = journal
    trainer.saver = Saver(journal, int(kept.get("keep") or 2), kept.get("on_commit"), fingerprints.settings(plan))
    trainer.metric = str(kept.get("metric") or "eval_loss")
    trainer.greater = bool(kept.get("greater_is_better"))
    trainer.hand_over_best = bool(kept.get("best"))
    trainer.max_non_finite = int(plan.monitor.get("non_finite_steps") or 3)


def diverged(trainer: Trainer, what: str, rows: list[dict[str, Any]]) -> Diverged:
    """The error of a run that is no longer finite, with the last good checkpoint, the rows and the cures."""
    with contextlib.suppress(Exception):
        trainer.saver.settle()
    good = checkpoint.complete(Path(trainer.args.output_dir))
    slower = f"training.learning_rate={trainer.args.learning_rate / 2:g}"
    look = f"look at {said}; " if (said := guard.said(rows)) else ""
    cures = "a lower learning rate, more warmup_steps or a lower max_grad_norm help"
    if good:
        fork = f"tune runs fork {trainer.journal.run.id} {slower}"
        return Diverged(Problem(what, hint=f"{look}{cures}; checkpoint-{good[-1]} is good, {fork} goes on from it"))
    return Diverged(Problem(what, hint=f"{look}{cures}; there is no checkpoint yet: start anew with {slower}"))
