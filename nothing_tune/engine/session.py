"""One training session: from the plan to the handed over adapter. Heavy: imported by the worker once the environment is set."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from nothing_tune.artifacts import Run, attempts, checkpoint, write_json
from nothing_tune.engine import build, chat_templates, fingerprints, guard, handover, packing_check, prepare, starts
from nothing_tune.engine import train as training
from nothing_tune.engine.cadence import Cadence
from nothing_tune.engine.journal import Journal
from nothing_tune.engine.progress import EarlyStop, Progress
from nothing_tune.errors import Preempted, Problem, ResumeRefused, StorageError, UsageError
from nothing_tune.plan.model import Plan

INITIAL = "initial"
"""Folder of a forked run with the weights that it starts from."""


def train(
    run: Run, plan: Plan, journal: Journal, interrupts: Any, phases: dict[str, float], outcome: dict[str, Any]
) -> bool:
    """Trains `run`, continuing at its newest complete checkpoint, and hands over the result; True when it was stopped first.

    Args:
        interrupts: The worker's signal keeper; while training it passes requests to `Cadence`.
        phases: Filled with the seconds that each phase took.
        outcome: Filled with the parts of result.json that are known here, as they become known.
    """
    phase = _Phases(phases, journal)
    evaluate = str(plan.training.get("eval_strategy") or "no") != "no"
    with phase("data"):
        tok = build.tokenizer(plan)
        rows = prepare.load(plan, tok, evaluate, _date(journal), lambda *_: journal.progress())
        _gate(rows, journal)
    template = rows.template
    config = build.sft_config(plan, run.checkpoints)
    resume = _where_to_go_on(run, journal, config)
    if resume is not None:
        config.eval_on_start = False  # it was done on the first start; again, it would move the random numbers
    outcome["oom"] = "loading"
    with phase("model"):
        peft_config = build.peft_config(plan)
        base = build.model(plan)
        marks = {"model": fingerprints.of_model(base)}
        if config.packing or config.padding_free:
            packing_check.refuse_leaks(base)
        build.add_tokens(base, tok, peft_config, template.added)
    with phase("trainer"):
        trainer = _trainer(run, plan, base, tok, peft_config, config, rows, resume)
        training.settings(trainer, plan, journal)
        training.cast_trainable(trainer.model, plan.trainable_dtype)
    marks |= _marks(trainer, tok, template)
    trainer.places = rows.places
    trainer.saver.fingerprints = marks
    if resume is not None:
        manifest = checkpoint.read(resume)
        fingerprints.compare(manifest, plan, marks, run.id, journal)
        trainer.forked = bool(manifest.get("forked"))
        trainer.first_step = _began_at(run)
    elif (run.path / INITIAL).is_dir():
        _start_from(trainer, run.path / INITIAL)
    _report_start(plan, trainer, rows, journal)
    if resume is not None:
        journal.event("resume", step=int(resume.name.split("-")[1]), path=str(resume.relative_to(run.path)))

    progress = Progress(journal)
    progress.trainer = trainer
    cadence = Cadence(trainer, journal, plan.checkpoint)
    trainer.add_callback(training.Restore(trainer, resume))
    if _rehearses(plan):
        trainer.add_callback(guard.Rehearsal(trainer, journal))
    trainer.add_callback(progress)
    patience, threshold = (
        plan.monitor.get("early_stopping_patience"),
        float(plan.monitor.get("early_stopping_threshold") or 0.0),
    )
    if plan.monitor.get("loss_spike", 3.0):
        trainer.add_callback(guard.Spikes(trainer, journal, float(plan.monitor.get("loss_spike", 3.0))))
    if patience and evaluate:
        trainer.add_callback(EarlyStop(journal, int(patience), threshold, trainer.metric, trainer.greater))
    trainer.add_callback(cadence)
    trainer.remove_callback(transformers.PrinterCallback)
    interrupts.training = cadence
    try:
        with phase("train"):
            if resume is None or not training.finished(trainer, resume, patience if evaluate else None, threshold):
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            trainer.saver.settle()
    finally:
        interrupts.training = None
        outcome["oom"] = trainer.phase
        with contextlib.suppress(Exception):  # the error that is on its way says more
            trainer.saver.settle()
        outcome |= {"step": trainer.state.global_step, "epoch": trainer.state.epoch}
        if progress.first_step_at is not None:
            outcome["first_step_s"] = progress.first_step_at - journal.get("started", progress.first_step_at)
        outcome["metrics"] = _metrics(trainer)
    if cadence.served:
        if cadence.reason == "deadline":
            raise Preempted(
                f"stopped at step {trainer.state.global_step}, in time before the deadline",
                hint="the same command continues",
            )
        interrupts.number = cadence.requested
        return True
    with phase("handover"):
        if trainer.args.process_index:
            torch.distributed.barrier()
            return False
        result, best = handover.hand_over(run, plan, trainer, tok)
        if trainer.args.world_size > 1:
            torch.distributed.barrier()
    if best is not None:
        outcome["metrics"] |= {
            f"best_{trainer.metric}": best[trainer.metric],
            "best_step": result.step,
            "best_epoch": result.epoch,
        }
        journal.event("best", step=result.step, epoch=result.epoch, **{trainer.metric: best[trainer.metric]})
        journal.status(best_step=result.step)
    outcome |= {"adapter": run.adapter.name, "digest": result.digest, "notes": result.notes}
    return False


def _where_to_go_on(run: Run, journal: Journal, config: Any) -> Path | None:
    """The newest complete checkpoint; what is newer and not complete is set aside, with one line each. Rank 0 decides for all."""
    step = _newest_step(run, journal) if journal.rank == 0 else None
    if config.world_size > 1:
        told = torch.tensor([-1 if step is None else step], device=config.device)
        torch.distributed.broadcast(told, src=0)
        step = int(told) if int(told) >= 0 else None
    return None if step is None else run.checkpoints / f"checkpoint-{step}"


def _newest_step(run: Run, journal: Journal) -> int | None:
    checkpoint.recover(run.checkpoints, journal.attempt)
    resume, faults = checkpoint.newest(run.checkpoints)
    for folder, why in faults:
        target = checkpoint.set_aside(folder, journal.attempt)
        journal.event("torn", path=folder.name, to=target.name, why=why)
        journal.warn(
            f"{folder.name} is set aside as {target.name}: {why}",
            f"training goes on at {resume.name}" if resume else "training starts anew",
        )
    return int(resume.name.rsplit("-", 1)[-1]) if resume else None


def _marks(trainer: training.Trainer, tok: Any, template: chat_templates.Choice) -> dict[str, Any]:
    """Fingerprints of what the run trains on."""
    return {
        "rows": len(trainer.train_dataset),
        "train_tokens": fingerprints.of_rows(trainer.train_dataset),
        "eval_tokens": fingerprints.of_rows(trainer.eval_dataset),
        "tokenizer": fingerprints.of_tokenizer(tok),
        "chat_template": fingerprints.of_text(template.text or template.own),
    }


def _began_at(run: Run) -> int:
    """Step of the parent's checkpoint from which a child run goes on; 0 for a run of its own."""
    parent = (attempts.salvage(run.path / "lock.json")[0] or {}).get("parent") or {}
    return int(parent.get("step") or 0) if parent.get("mode") == "continue" else 0


def _start_from(trainer: training.Trainer, folder: Path) -> None:
    """Loads the weights that a forked run begins with."""
    why = checkpoint.fault(folder)
    if why:
        raise StorageError(f"{folder.name} cannot be used: {why}", hint="make the run again: tune runs fork")
    trainer._load_from_checkpoint(str(folder))


def _rehearses(plan: Plan) -> bool:
    wanted = plan.monitor.get("rehearse", "auto")
    return torch.cuda.is_available() and not plan.training.get("use_cpu") if wanted == "auto" else bool(wanted)


class _Phases:
    """Times each phase, and says when one begins."""

    def __init__(self, seconds: dict[str, float], journal: Journal) -> None:
        self.seconds = seconds
        self.journal = journal

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.journal.event("phase", phase=name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - began


def _trainer(
    run: Run,
    plan: Plan,
    base: Any,
    tok: Any,
    peft_config: Any,
    config: Any,
    rows: prepare.Prepared,
    resume: Path | None,
) -> training.Trainer:
    """The trainer; PiSSA and OLoRA starts are recorded on a first start and replayed when the run resumes."""
    start = run.path / starts.FILE
    moves = str((plan.peft or {}).get("init_lora_weights", "")).lower().startswith(build.MOVES_BASE)
    if moves and resume is not None and not start.is_file():
        raise ResumeRefused(
            f"{start.name} is gone, and without it the base weights of the run cannot be made again",
            hint="start a new run",
        )
    tok.chat_template = rows.template.own
    with starts.replayed(start) if moves and resume is not None else starts.recorded(start) as write:
        trainer = training.Trainer(
            model=base,
            args=config,
            train_dataset=rows.train,
            eval_dataset=rows.eval,
            processing_class=tok,
            peft_config=peft_config,
        )
    if write is not None:
        write(trainer.model)
    head = trainer.model.get_output_embeddings()
    if rows.template.added and not hasattr(head, "bias"):
        head.__dict__["bias"] = None  # TRL's fused head reads it, PEFT's token wrapper hides it
    return trainer


def _gate(rows: prepare.Prepared, journal: Journal) -> None:
    """Says what the gate found; an error ends the run before a model is loaded."""
    found = rows.report["findings"]
    wrong = [
        Problem("; ".join([f["what"], *(", ".join(f["rows"]),) * bool(f["rows"])]), key=f["key"], hint=f["hint"])
        for f in found
        if f["severity"] == "error"
    ]
    if wrong:
        raise UsageError(*wrong)
    for finding in found:
        if finding["severity"] == "warning":
            named = f" ({', '.join(finding['rows'][:3])})" if finding["rows"] else ""
            journal.warn(f"{finding['what']}{named}", finding["hint"])


def _report_start(plan: Plan, trainer: training.Trainer, rows: prepare.Prepared, journal: Journal) -> None:
    model = trainer.model
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in model.parameters())
    report = rows.report
    dropped, sides = report["dropped"], (report["train"], report["eval"] or {})
    journal.event(
        "start",
        total_steps=report["steps"]["total"],
        train_rows=sides[0]["rows"],
        eval_rows=sides[1].get("rows", 0),
        train_sequences=len(trainer.train_dataset),
        trainable_parameters=trainable,
        total_parameters=total,
        supervised_tokens=sides[0]["supervised_tokens"],
        device=str(trainer.args.device),
        dtype=str((plan.model.get("init") or {}).get("dtype")),
        precision_reason=plan.why.get("SFTConfig.bf16") or plan.why.get("training.bf16"),
        chat_template=rows.template.source,
        format=report["format"],
        data={
            "rows": sides[0]["rows"],
            "eval_rows": sides[1].get("rows", 0),
            "bad": report["bad_rows"]["count"],
            "duplicates": dropped["duplicates"] + dropped["near_duplicates"],
            "leaked": dropped["leaked"],
            "cut": sides[0]["cut"]["answers"],
            "max_length": report["max_length"],
            "format": report["format"],
            "split": report["split"],
            "cached": report["cached"],
        },
    )
    machine: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(trainer.args.device),
        "cpus": os.cpu_count(),
    }
    if torch.cuda.is_available():
        machine |= {
            "gpu": torch.cuda.get_device_name(0),
            "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        }
    write_json(
        journal.run.path / "machine.json",
        {**(attempts.salvage(journal.run.path / "machine.json")[0] or {}), "engine": machine},
    )


def _metrics(trainer: training.Trainer) -> dict[str, Any]:
    history = trainer.state.log_history
    losses = [row["loss"] for row in history if "loss" in row]
    evals = [row["eval_loss"] for row in history if "eval_loss" in row]
    out: dict[str, Any] = {"num_tokens": trainer._total_train_tokens, "trained_s": trainer.trained_s()}
    if losses:
        out |= {"first_loss": losses[0], "last_loss": losses[-1]}
    if trainer.state.global_step:
        out["train_loss"] = trainer._total_loss_scalar / trainer.state.global_step
    if evals:
        out |= {"first_eval_loss": evals[0], "eval_loss": evals[-1]}
    return out


def _date(journal: Journal) -> str:
    """The day the run was made, as chat templates print it: a run that is resumed another day must see the same rows."""
    return time.strftime("%d %b %Y", time.localtime(journal.get("created") or time.time()))
