"""What an export will make, how large it will be and whether there is room: known before the engine starts."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.data import hub
from nothing_tune.errors import Problem, StorageError, UsageError
from nothing_tune.outputs import Wanted, checkpoints, manifest
from nothing_tune.outputs.checkpoints import HANDED_OVER
from nothing_tune.outputs.sizes import Size, sizes, total
from nothing_tune.outputs.weights import of_whole, stored
from nothing_tune.plan import Plan
from nothing_tune.plan.memory.notes import gib
from nothing_tune.run.architecture import config_of
from nothing_tune.run.missing import LLAMA_CPP

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""Files that go with the weights, but for small ones."""
SPARE = 64 * 2**20
"""Bytes beside the outputs themselves: tokenizers, cards, manifests, what the proof keeps."""


@dataclass(frozen=True)
class Outlook:
    """What is ahead.

    Attributes:
        run: The run.
        wanted: The outputs.
        which: `handed-over`, `best`, `last` or a step.
        to: Folder that `--to` names; None for the run's own.
        folder: Folder that the outputs go into; the one above it where the engine must look which step it is.
        sizes: What is made, in order.
        there: Outputs of these weights that lie in the folder already.
        dtype: Type of the base's weights as they are stored; empty where unknown.
        free: Bytes that are free there.
    """

    run: Run
    wanted: Wanted
    which: str
    to: Path | None
    folder: Path
    sizes: tuple[Size, ...]
    there: frozenset[str]
    dtype: str
    free: int

    @property
    def needed(self) -> int | None:
        """Bytes needed while it is made; None where that is not known."""
        found = total([one for one in self.sizes if one.output not in self.there])
        return None if found is None else found + SPARE

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": self.run.id, "which": self.which, "folder": str(self.folder), "dtype": self.dtype or None,
            "sizes": [
                {"output": s.output, "bytes": s.bytes, "kept": s.kept, "there": s.output in self.there, "note": s.note}
                for s in self.sizes
            ],
            "needed_bytes": self.needed, "free_bytes": self.free,
        }  # fmt: skip


def filled(wanted: Wanted) -> Wanted:
    """`wanted` with what it needs: a Modelfile needs a GGUF, so that q4_k_m is made where none is named."""
    from dataclasses import replace

    return replace(wanted, gguf=("q4_k_m",)) if wanted.ollama and not wanted.gguf else wanted


def outlook(run: Run, wanted: Wanted, which: str = HANDED_OVER, to: Path | None = None) -> Outlook:
    """What exporting `wanted` from `run` will make.

    Raises:
        UsageError: It is no run, it has no such weights, or it trained no adapter that could be exported alone.
        StorageError: The run's weights cannot be read.
    """
    plan = Plan.from_json(run.plan())
    if not plan.peft and (wanted.gguf_adapter or (wanted.adapter and not (wanted.merged or wanted.gguf))):
        raise UsageError(f"run {run.id} trained the whole model: it has no adapter", hint="--merge exports the model")
    base = base_folder(plan)
    held, dtype = stored(base) if base else (0, "")
    config, _ = config_of(plan, fetch=False)
    planned = None if plan.peft else (plan.model.get("init") or {}).get("dtype")
    dtype = of_whole(dtype, config, planned)
    weights = checkpoints.handed_over(run) if which == HANDED_OVER else checkpoints.committed(run, which)
    folder = (to or run.path / "exports" / _step(weights)).absolute()
    own = sum(p.stat().st_size for p in weights.glob("*.safetensors"))
    trained = ""
    with contextlib.suppress(StorageError):  # the export itself says what is damaged
        trained = stored(weights)[1]
    beside = sum(p.stat().st_size for p in weights.iterdir() if p.name in TOKENIZER)
    found = sizes(wanted, config, dtype, own, held or None, full=not plan.peft, own_dtype=trained, beside=beside)
    return Outlook(run, wanted, which, to, folder, tuple(found), _there(run, folder), dtype, _free(folder))


def refuse_unable(wanted: Wanted) -> None:
    """`UsageError` where GGUF is wanted and llama.cpp is not installed."""
    if (wanted.gguf or wanted.gguf_adapter) and find_spec("llama_cpp") is None:
        raise UsageError(
            Problem(
                "GGUF needs llama-cpp-python, which is not installed",
                key="export.gguf",
                hint=f"pip install {LLAMA_CPP}",
            )
        )


def refuse_full(found: Outlook) -> None:
    """`StorageError` where the outputs do not fit on the disk."""
    if found.needed is not None and found.needed > found.free:
        raise StorageError(
            f"the export needs {gib(found.needed)} in {found.folder}, and {gib(found.free)} are free",
            hint="--to names a folder on another disk; fewer outputs need less",
        )


def base_folder(plan: Plan) -> Path | None:
    """Where the base model's files are on this disk: its folder, or its place in the hub's cache; None for nowhere."""
    name = str(plan.model.get("name_or_path") or "")
    folder = Path(os.path.expandvars(name)).expanduser()
    if name and (folder / "config.json").is_file():
        return folder
    cached = hub.cached_config(name) if name else None
    return cached.parent if cached else None


def _step(weights: Path) -> str:
    """`step-60`: the folder for these weights; empty where they do not say of which step they are."""
    from nothing_tune.artifacts import checkpoint, read_json

    found = read_json(weights / checkpoint.COMMIT) or {}
    return f"step-{found['step']}" if isinstance(found.get("step"), int) else ""


def _there(run: Run, folder: Path) -> frozenset[str]:
    """Names of the outputs in `folder` that were made of this run."""
    found: set[str] = set()
    for kind in ("adapter", "merged", "gguf"):
        with contextlib.suppress(UsageError):
            told = manifest.read(folder / kind)
            if told and told["source"].get("run") == run.id:
                found |= set(told["outputs"])
    return frozenset(found)


def _free(folder: Path) -> int:
    """Bytes free on the disk of `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
