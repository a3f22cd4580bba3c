"""What can be talked to and served: a run, a model's folder, an adapter's folder, a GGUF file. Told by looking at names. Light."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, checkpoint, find_run, read_json
from nothing_tune.errors import UsageError
from nothing_tune.outputs import checkpoints, gguf_file, manifest, quantizations, record


@dataclass(frozen=True)
class Subject:
    """Something that answers.

    Attributes:
        kind: `run`, `model` (a whole model's folder), `adapter` (a PEFT adapter's folder) or `gguf`.
        path: The run directory, the folder or the file.
        name: What it is called: the run's id, the folder's or file's name.
        weights: Folder of a run's weights: `adapter/` or a checkpoint; None for other kinds, and where only the base is wanted.
        step: Optimizer step of the weights; None where unknown.
        base: The base model's name or folder; empty where there is none, or none is known.
        adapter: Whether there is an adapter on a base, which can be left off.
        words: What it is in a few words: `nano, QLoRA`.
    """

    kind: str
    path: Path
    name: str
    weights: Path | None = None
    step: int | None = None
    base: str = ""
    adapter: bool = False
    words: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data for an engine job."""
        return {"kind": self.kind, "path": str(self.path), "weights": str(self.weights) if self.weights else None}


def find(word: str, root: Path, which: str | None = None, base: bool = False) -> Subject:
    """What `word` means.

    Args:
        word: A run's id, the start of one, `latest`, or a path: run directory, model folder, adapter folder, `exports/step-N/`, GGUF.
        root: Folder of all runs.
        which: `best`, `last` or a step: which checkpoint of a run; None is what it handed over, else the newest checkpoint.
        base: Whether the base alone is wanted, so that a run without weights will do.

    Raises:
        UsageError: There is no such thing, or it holds nothing that answers.
        StorageError: The checkpoint is damaged.
    """
    path = Path(word).expanduser()
    known = _folder(path) if path.is_dir() else _file(path) if path.is_file() else None
    if known is None:
        if "/" in word or word.endswith(".gguf"):
            raise UsageError(f"there is no run and no model at {path.absolute()}", hint="tune runs lists the runs")
        return of_run(find_run(word, root), which, base)
    if known.kind == "run":
        return of_run(Run(known.path), which, base)
    if which is not None:
        raise UsageError(f"{word} is no run, so it has no checkpoints", hint="leave --checkpoint out")
    if base and not known.adapter:
        raise UsageError(f"{word} is {known.words}: it has no base beside it", hint="leave --base out")
    return known


def of_run(run: Run, which: str | None = None, base: bool = False) -> Subject:
    """A run: what it handed over, or a committed checkpoint. See `find`."""
    plan = run.plan()
    name = str((plan.get("model") or {}).get("name_or_path") or "")
    method = "" if not plan.get("peft") else record.method_of(plan.get("peft"), plan.get("quantization"))
    short = Path(name).name if name.startswith(("/", ".", "~")) else name
    words = (
        f"{short}, {record.METHODS.get(method, method).partition(':')[0]}" if method else f"{short}, fine-tuned whole"
    )
    if base:
        return Subject("run", run.path, run.id, base=name, words=f"{short} as it was before")
    weights, step = _weights(run, which)
    return Subject("run", run.path, run.id, weights, step, name, bool(method), words)


def _weights(run: Run, which: str | None) -> tuple[Path, int | None]:
    """The folder and step of what the run handed over, else of its newest checkpoint, or of the one that is named."""
    if which is None and (run.adapter / "tokenizer_config.json").is_file():
        step = (read_json(run.adapter / checkpoint.COMMIT) or {}).get("step")
        return run.adapter, step if isinstance(step, int) else None
    if which is None and not checkpoint.complete(run.checkpoints):
        raise UsageError(
            f"run {run.id} has nothing to talk to yet: it is {run.state()}",
            hint=f"tune resume {run.id} goes on; --base talks to the base model",
        )
    folder = checkpoints.committed(run, which or "last")
    return folder, int(folder.name.rsplit("-", 1)[-1])


def _file(path: Path) -> Subject:
    with open(path, "rb") as handle:
        if handle.read(len(gguf_file.MAGIC)) != gguf_file.MAGIC:
            raise UsageError(f"{path} is no GGUF file", hint="name a run, a model's folder or a .gguf file")
    facts = gguf_file.read(path).facts
    number = facts.get("general.file_type")
    of = next((name for name, known in quantizations.TYPES.items() if known.number == number), "")
    words = " ".join(w for w in ("a", str(facts.get("general.architecture") or ""), "model as GGUF", of) if w)
    return Subject("gguf", path.absolute(), path.stem, words=words, step=_step(path.absolute().parent))


def _folder(path: Path) -> Subject | None:
    """What a folder holds; None where it is nothing of ours and may be the start of a run's id."""
    full = path.absolute()
    if (path / "plan.json").is_file():
        return Subject("run", full, full.name)
    if (path / "adapter_config.json").is_file():
        settings = read_json(path / "adapter_config.json") or {}
        base = str(settings.get("base_model_name_or_path") or "")
        short = Path(base).name if base.startswith(("/", ".", "~")) else base
        return Subject("adapter", full, _called(full), None, _step(full), base, True, f"adapter on {short}")
    if (path / "config.json").is_file():
        return Subject("model", full, _called(full), step=_step(full), words="a whole model")
    for part in ("merged", "adapter"):
        if (path / part / manifest.NAME).is_file():
            return _folder(path / part)
    files = sorted((path / "gguf" if (path / "gguf").is_dir() else path).glob("*.gguf"))
    files = [f for f in files if "-adapter-" not in f.name]
    if files:
        return _file(max(files, key=lambda f: f.stat().st_size))
    if any(path.iterdir()):
        raise UsageError(
            f"{path.absolute()} holds no run and no model",
            hint="a model's folder has a config.json, an adapter's an adapter_config.json, a run's a plan.json",
        )
    return None


def _called(folder: Path) -> str:
    """`quick/step-120/merged` for a folder of an export, else the folder's own name."""
    step = folder.parent
    if step.name.startswith("step-") and step.parent.name == "exports":
        return f"{step.parent.parent.name}/{step.name}/{folder.name}"
    return folder.name


def _step(folder: Path) -> int | None:
    """Step that the manifest of an export names."""
    found = manifest.read(folder)
    step = (found or {}).get("source", {}).get("step")
    return step if isinstance(step, int) else None
