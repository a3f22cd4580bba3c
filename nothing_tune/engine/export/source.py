"""What an export starts from: the weights of one committed step of a run, as a plain adapter, and the base they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, checkpoint
from nothing_tune.engine import pickles
from nothing_tune.engine.worker import with_environment
from nothing_tune.errors import Problem, StorageError, UsageError
from nothing_tune.outputs import checkpoints
from nothing_tune.plan.model import Plan


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
    weights = checkpoints.handed_over(run) if which == checkpoints.HANDED_OVER else checkpoints.committed(run, which)
    pickles.refuse(weights)
    commit = checkpoint.read(weights) if (weights / checkpoint.COMMIT).is_file() else {}
    step = int(commit.get("step") or _step(run))
    full = not (weights / "adapter_config.json").is_file()
    wanted = "adapter_model.safetensors" if not full else "config.json"
    if full == bool(plan.peft) or not (weights / wanted).is_file():
        what = "an adapter" if plan.peft else "a whole model"
        raise UsageError(
            f"{weights} does not hold {what}, which the plan of run {run.id} trains", hint=checkpoints.others(run)
        )
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


def refuse_gone(plan: Plan, hint: str = "put it back there") -> None:
    """`UsageError` where the base model of `plan` was a folder that is there no more; nothing for a hub id, and loads nothing."""
    name = str(plan.model.get("name_or_path") or "")
    path = Path(name).expanduser()
    if not path.is_dir() and (not name or name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(
            Problem(f"the base model is gone: looked for {path.absolute()}", key="model.name_or_path", hint=hint)
        )


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
