"""What an export starts from: the weights of one committed step of a run, as a plain adapter, and the base they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, checkpoint
from nothing_tune.engine import pickles
from nothing_tune.engine.worker import with_environment
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.plan.model import Plan

HANDED_OVER = "handed-over"
_BESIDE_THE_WEIGHTS = "README.md"
"""The one file of a folder that people may write in without its weights being doubted."""


@dataclass(frozen=True)
class Source:
    """The weights that are exported.

    Attributes:
        run: The run.
        plan: Its plan, with the environment's values in it.
        step: Optimizer step of the weights.
        folder: `exports/step-N/` of the run, or the folder that `--to` names: all outputs are made in it.
        weights: What was committed: `adapter/` or `checkpoints/checkpoint-N/` of the run.
        full: Whether the run trained the whole model, so that there is no adapter.
        facts: `source` of the manifests: `{"run", "path", "step", "digest", "base": {...}}`.
    """

    run: Run
    plan: Plan
    step: int
    folder: Path
    weights: Path
    full: bool
    facts: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """Folder of the exported adapter: plain weights, tokenizer, generation config. The whole model where `full`."""
        return self.folder / ("merged" if self.full else "adapter")


@dataclass(frozen=True)
class Base:
    """The base model's files, not quantised, on this disk.

    Attributes:
        folder: Holds config.json, the tokenizer and the weights.
        config: config.json.
        dtype: Type of the weights as they are stored (`bfloat16`).
        files: File name of each tensor.
        revision: Commit on the hub; empty for a folder.
        licence: As its card names it; empty where unknown.
    """

    folder: Path
    config: dict[str, Any]
    dtype: str
    files: dict[str, str]
    revision: str = ""
    licence: str = ""


def source(run: Run, which: str, to: Path | None = None) -> Source:
    """The weights of `run` that `which` names.

    Args:
        run: Any run with a committed step, finished or not.
        which: `handed-over` (what the run handed over at its end), `last`, `best`, or the step of a checkpoint.
        to: Folder for the outputs; None is `exports/step-N/` of the run.

    Raises:
        UsageError: There are no such weights, or they are pickles.
        StorageError: They are damaged.
    """
    plan = Plan.from_json(with_environment(run.plan()))
    weights = _handed_over(run) if which == HANDED_OVER else _checkpoint(run, which)
    pickles.refuse(weights)
    commit = checkpoint.read(weights) if (weights / checkpoint.COMMIT).is_file() else {}
    step = int(commit.get("step") or _step(run))
    full = not (weights / "adapter_config.json").is_file()
    wanted = "adapter_model.safetensors" if not full else "config.json"
    if full == bool(plan.peft) or not (weights / wanted).is_file():
        what = "an adapter" if plan.peft else "a whole model"
        raise UsageError(f"{weights} does not hold {what}, which the plan of run {run.id} trains", hint=_others(run))
    facts = {
        "run": run.id,
        "path": str(weights.relative_to(run.path)),
        "step": step,
        "digest": _digest(weights, commit),
        "base": {
            "name_or_path": str(plan.model.get("name_or_path") or ""),
            "revision": plan.model.get("revision"),
            "fingerprint": _fingerprint(run, commit),
        },
    }
    folder = to if to is not None else run.path / "exports" / f"step-{step}"
    return Source(run, plan, step, folder.expanduser().absolute(), weights, full, facts)


def _handed_over(run: Run) -> Path:
    folder = run.adapter
    if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise UsageError(
            f"run {run.id} has handed nothing over yet: it is {run.state()}",
            hint=f"tune resume {run.id} finishes it; {_others(run)}",
        )
    if (folder / checkpoint.COMMIT).is_file():
        _whole(run, folder)
    return folder


def _checkpoint(run: Run, which: str) -> Path:
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
            raise UsageError(f"run {run.id} has no best checkpoint: it has not evaluated", hint=_others(run))
    elif which.isdigit():
        step = int(which)
    else:
        raise UsageError(f"{which!r} is no checkpoint", hint=f"best, last, or a step; {_others(run)}")
    if step not in there:
        kind = "the best step" if which == "best" else "step"
        raise UsageError(f"run {run.id} keeps no checkpoint of {kind} {step}", hint=_others(run))
    folder = run.checkpoints / f"checkpoint-{step}"
    _whole(run, folder)
    return folder


def _whole(run: Run, folder: Path) -> None:
    why = checkpoint.fault(folder)
    if why and not why.startswith(_BESIDE_THE_WEIGHTS):
        raise StorageError(f"{folder.name} of run {run.id} is damaged: {why}", hint=_others(run))


def _others(run: Run) -> str:
    """What else could be exported, as a hint."""
    there = checkpoint.complete(run.checkpoints)
    return f"its checkpoints: {', '.join(map(str, there))}" if there else "it has no checkpoints"


def _best(run: Run) -> int | None:
    """Step of the best checkpoint, as status and events tell."""
    told = [run.status().get("best_step"), (run.last_event("best") or {}).get("step")]
    told += [e.get("step") for e, _ in run.events() if e.get("type") == "checkpoint" and e.get("best")][-1:]
    return next((step for step in told if isinstance(step, int)), None)


def _step(run: Run) -> int:
    """Step of what an older version handed over, which committed only checkpoints."""
    result = run.result() or {}
    found = (result.get("metrics") or {}).get("best_step") or result.get("step") or run.saved_step()
    return int(found or 0)


def _digest(weights: Path, commit: dict[str, Any]) -> str:
    """sha256 over names and contents of the weight files: from the commit's own, else read."""
    named = {n: f["sha256"] for n, f in (commit.get("files") or {}).items() if n.endswith(".safetensors")}
    total = hashlib.sha256()
    for path in sorted(weights.glob("*.safetensors")):
        if (known := named.get(path.name)) is None:
            with open(path, "rb") as handle:
                known = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(f"{path.name} {known}\n".encode())
    return total.hexdigest()


def _fingerprint(run: Run, commit: dict[str, Any]) -> str | None:
    """`fingerprints.of_model` of the base that the run loaded; None where no checkpoint kept it."""
    found = (commit.get("fingerprints") or {}).get("model")
    for step in reversed(checkpoint.complete(run.checkpoints)):
        if found:
            break
        try:
            found = (checkpoint.read(run.checkpoints / f"checkpoint-{step}").get("fingerprints") or {}).get("model")
        except StorageError:
            continue
    return str(found) if found else None
