"""`Trainer`: TRL's SFTTrainer with committed checkpoints and exact resume; `trainer(...)` builds one from a plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from trl import SFTTrainer

from nothing_tune.artifacts import checkpoint, read_json, write_json
from nothing_tune.engine.journal import Journal
from nothing_tune.engine.progress import best_entry, patience_used
from nothing_tune.errors import Diverged, ResumeRefused
from nothing_tune.plan.model import Plan


class Trainer(SFTTrainer):
    """SFTTrainer, except that checkpoints are committed, verified and restored with the dtypes they were trained in.

    Attributes:
        journal: Where events go.
        keep: Complete checkpoints kept next to the best one.
        metric, greater, hand_over_best: How the best checkpoint is told.
        saved_step: Step of the checkpoint committed last; None before the first.
    """

    journal: Journal
    keep = 2
    metric = "eval_loss"
    greater = False
    hand_over_best = False
    saved_step: int | None = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: the adapter's own notes are written once, at the end."""

    def best(self) -> dict[str, Any] | None:
        """The history entry (`step`, `epoch`, metric) with the best metric so far; None without evaluations."""
        return best_entry(self.state.log_history, self.metric, self.greater)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        bad = [n for n, p in self.model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
        if bad:
            raise Diverged(
                f"{len(bad)} trained weights are no longer finite at step {step}, first {bad[0]}: no checkpoint is written",
                hint="lower training.learning_rate; the checkpoints before this one are whole",
            )
        checkpoints = Path(self.args.output_dir)
        folder = checkpoints / f"checkpoint-{step}"
        if folder.exists():
            checkpoint.remove(folder)
        super()._save_checkpoint(model, trial)
        for name in checkpoint.UNWANTED:
            (folder / name).unlink(missing_ok=True)
        write_json(folder / checkpoint.STATE, self._tune_state())
        checkpoint.commit(folder, step=step, attempt=self.journal.attempt, run=self.journal.run.id)
        self.saved_step = step
        entry = self.best() if self.hand_over_best else None
        best_step = entry["step"] if entry else None
        self.journal.event(
            "checkpoint",
            step=step,
            epoch=self.state.epoch,
            path=str(folder.relative_to(self.journal.run.path)),
            best=best_step == step,
        )
        if best_step is not None:
            self.journal.status(best_step=best_step)
        checkpoint.rotate(checkpoints, keep=self.keep, best=best_step)

    def _tune_state(self) -> dict[str, Any]:
        """What the stock checkpoint forgets: tokens counted, sums that a log in progress needs, dtypes and shapes."""
        return {
            "schema": checkpoint.SCHEMA,
            "num_tokens": self._total_train_tokens,
            "loss_since_log": float(self._tr_loss),
            "last_logged_step": self._globalstep_last_logged,
            "total_loss": self._total_loss_scalar,
            "metrics": {
                mode: {k: list(map(float, v)) for k, v in kept.items()} for mode, kept in self._metrics.items()
            },
            "trained_s": self.trained_s(),
            "trainable": trainable_types(self.model),
        }

    def trained_s(self) -> float:
        """Seconds spent in training so far, earlier attempts included."""
        return self._trained_before + (time.monotonic() - self._began if self._began else 0.0)

    _trained_before = 0.0
    _began = 0.0

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Loads the weights and gives them back the dtype they are trained in, which PEFT does not keep."""
        target = self.model if model is None else model
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
        state.compute_steps(args, state.max_steps)  # how often to log may have changed since the checkpoint
        if self.folder is not None:
            put_back(self.trainer, self.folder)
            before = read_json(self.folder / "trainer_state.json")["max_steps"]
            if before != state.max_steps:
                follow_longer_curve(self.trainer.lr_scheduler)
                self.trainer.journal.warn(
                    f"the run goes on to step {state.max_steps} instead of {before}",
                    "the learning rate follows the curve of the longer run from here",
                )


def put_back(trainer: Trainer, folder: Path) -> None:
    """Gives `trainer` the counters and sums that the checkpoint in `folder` was written with."""
    kept = read_json(folder / checkpoint.STATE)
    trainer.saved_step = trainer.state.global_step
    trainer._total_train_tokens = kept["num_tokens"]
    trainer._tr_loss = torch.tensor(kept["loss_since_log"], device=trainer.args.device)
    trainer._globalstep_last_logged = kept["last_logged_step"]
    trainer._total_loss_scalar = kept["total_loss"]
    trainer._trained_before = kept["trained_s"]
    for mode, metrics in kept["metrics"].items():
        trainer._metrics[mode].update({k: list(v) for k, v in metrics.items()})


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
    trainer.journal = journal
    trainer.keep = int(plan.checkpoint.get("keep") or 2)
    trainer.metric = str(plan.checkpoint.get("metric") or "eval_loss")
    trainer.greater = bool(plan.checkpoint.get("greater_is_better"))
    trainer.hand_over_best = bool(plan.checkpoint.get("best"))
