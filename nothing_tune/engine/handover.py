"""Writes what a run hands over into `adapter/`: weights as safetensors, tokenizer with the model's own chat template, notes.

The weights are those of the best committed checkpoint where the plan asks for it, else the last ones. PiSSA and OLoRA
become plain LoRA; full fine-tuning hands over the whole model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from nothing_tune.artifacts import Run, checkpoint, fsync_dir, write_json, write_text
from nothing_tune.engine import starts
from nothing_tune.engine.build import MOVES_BASE
from nothing_tune.plan.model import Plan

MODEL_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
)


@dataclass(frozen=True)
class Handover:
    """What was handed over: `step` and `epoch` of the weights, `digest` (see `digest`), and notes for whoever uses it."""

    step: int
    epoch: float | None
    digest: str
    notes: list[str] = field(default_factory=list)


def hand_over(run: Run, plan: Plan, trainer: Any, tokenizer: Any) -> tuple[Handover, dict[str, Any] | None]:
    """Fills `adapter/` and returns what is in it, and the history entry of the best checkpoint (None unless best is asked for)."""
    _tell_of_the_base(trainer)
    best = trainer.best() if trainer.hand_over_best else None
    chosen: Path | None = None
    step, epoch = trainer.state.global_step, trainer.state.epoch
    if best is not None:
        folder = run.checkpoints / f"checkpoint-{best['step']}"
        why = checkpoint.fault(folder)
        if why is None:
            chosen, step, epoch = folder, int(best["step"]), best.get("epoch")
        else:
            trainer.journal.warn(
                f"the best checkpoint, step {best['step']}, cannot be handed over: {why}",
                "the last weights are handed over instead",
            )
            best = None
    temp = run.path / ".adapter.tmp"
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir()
    if chosen is not None:
        for path in chosen.iterdir():
            if path.name in MODEL_FILES or path.suffix == ".safetensors":
                shutil.copy2(path, temp / path.name)
    else:
        trainer.model.save_pretrained(temp)
    (temp / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(temp)
    notes = make_plain(temp, run, plan)
    total = digest(temp)
    write_text(temp / "README.md", _readme(plan, run, step, epoch, notes))
    checkpoint.commit(temp, step=step, attempt=trainer.journal.attempt, run=run.id)
    old = run.path / ".adapter.old"
    shutil.rmtree(old, ignore_errors=True)
    if run.adapter.exists():
        run.adapter.rename(old)
    temp.rename(run.adapter)
    fsync_dir(run.path)
    shutil.rmtree(old, ignore_errors=True)
    return Handover(step, epoch, total, notes), best


def _tell_of_the_base(trainer: Any) -> None:
    """Warns when the base model was better, where it was evaluated before the first step, than every checkpoint."""
    metric, best = trainer.metric, trainer.best()
    before = next((row[metric] for row in trainer.state.log_history if metric in row and row.get("step") == 0), None)
    if best is None or before is None:
        return
    if before >= best[metric] if trainer.greater else before <= best[metric]:
        trainer.journal.warn(
            f"no checkpoint is better than the base model: {metric} {best[metric]:.4g} at best, {before:.4g} before the training",
            "a lower training.learning_rate or other data may help",
        )


def digest(folder: Path) -> str:
    """sha256 over names, shapes and values of all tensors in a folder's safetensors files.

    Values count as float32, so that a bfloat16 adapter and its exact float32 copy have the same digest.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name}{tuple(value.shape)}".encode())
        total.update(
            value.to(torch.float32).contiguous().numpy().tobytes()
            if value.is_floating_point()
            else value.numpy().tobytes()
        )
    return total.hexdigest()


def make_plain(folder: Path, run: Run, plan: Plan) -> list[str]:
    """Makes the adapter in `folder`, one of `run`, plain LoRA where it is none and that is exact; one that is plain stays.

    Returns notes on what a user of the adapter must know.
    """
    notes = []
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    kind = config.get("init_lora_weights")
    moved = str(kind).lower().startswith(MOVES_BASE)
    if moved and (run.path / starts.FILE).is_file() and weights.is_file():
        tensors, config = starts.to_plain_lora(
            load_file(weights), config, _peft_names(load_file(run.path / starts.FILE))
        )
        save_file(tensors, weights, metadata={"format": "pt"})
        write_json(settings, config)
        notes.append(
            f"Trained as {kind}, handed over as plain LoRA of twice the rank: it fits the untouched base model."
        )
        if str((plan.model.get("init") or {}).get("dtype")) != "float32":
            notes.append(
                "The base was rounded once more while it trained, so that the last bits differ from what was trained."
            )
    elif plan.peft and str(plan.peft.get("init_lora_weights", "")).lower() == "loftq":
        notes.append(
            "Trained with LoftQ: the adapter belongs to the base as LoftQ quantised it, which no plain LoRA can express. Load it with "
            "PEFT on the unquantised base, which repeats LoftQ; servers that read it as plain LoRA answer wrongly. Merge it for them."
        )
    return notes


def _peft_names(start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        (n if n.startswith("base_model.model.") else f"base_model.model.{n.removeprefix('base_model.')}"): t
        for n, t in start.items()
    }


def _readme(plan: Plan, run: Run, step: int, epoch: float | None, notes: list[str]) -> str:
    base = plan.model.get("name_or_path")
    kind = "An adapter for" if plan.peft else "A model fine-tuned from"
    at = f"step {step}" + (f", epoch {epoch:.2f}" if epoch is not None else "")
    lines = [
        f"# {plan.name}",
        "",
        f"{kind} `{base}`, trained by nothing-tune in run `{run.id}`; the weights are those of {at}.",
        "",
    ]
    return "\n".join([*lines, *[f"{note}\n" for note in notes]])
