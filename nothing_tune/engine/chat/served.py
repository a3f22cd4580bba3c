"""The job that lays out a folder which a server loads as one model: base, adapter, the run's tokenizer and stop tokens.

    in:  {"kind", "path", "weights", "folder": where to lay it out, "name": how the model is called}
    out: {"type": "laid out", "model": FOLDER, "base": FOLDER, "adapter": FOLDER | null, "quantization": {...} | null, "dtype",
          "attention", "cpu", "trust_remote_code", "context"} or an error

    folder/adapter/           the adapter as the untouched base takes it, tokenizer, generation_config.json
    folder/hub/models--NAME/  the same beside links to the base's files, as the hub's cache would hold it: servers list models from there
    folder/NAME               a link to that model

Nothing large is copied: weights are links.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from nothing_tune.artifacts import Run, read_json, write_json, write_text
from nothing_tune.engine import pickles
from nothing_tune.engine.job import Send, answer
from nothing_tune.errors import UsageError
from nothing_tune.outputs.checkpoints import HANDED_OVER
from nothing_tune.plan.model import Plan

FROM_ADAPTER = (
    "tokenizer", "special_tokens", "added_tokens", "chat_template", "vocab", "merges", "spiece", "additional_chat",
    "generation_config",
)  # fmt: skip
"""How names of files begin that a run's own take the place of: its tokenizer and its stop tokens."""
MAGNITUDE = ".lora_magnitude_vector"
"""How PEFT names the magnitudes of DoRA in a file."""


def main(lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Answers the one line of `lines` (stdin) on `out` (stdout); returns the exit code."""
    return answer(_answer, lines, out)


def _answer(request: dict[str, Any], send: Send) -> None:
    folder, path = Path(request["folder"]), Path(request["path"])
    if request["kind"] == "run":
        weights = Path(request["weights"]) if request.get("weights") else None
        send(type="laid out", **of_run(Run(path), weights, folder, str(request["name"])))
    else:
        send(type="laid out", **of_folder(path, folder, str(request["name"])))


def of_run(run: Run, weights: Path | None, folder: Path, name: str) -> dict[str, Any]:
    """Lays out a run. See the module.

    Args:
        weights: Folder of a checkpoint; None, or the run's `adapter/`, is what it handed over.

    Raises:
        UsageError: The base is not there, or only a merged model can be served.
    """
    from nothing_tune.engine.export import adapter, base, source

    step = weights.name.rsplit("-", 1)[-1] if weights and weights != run.adapter else HANDED_OVER
    found = source.source(run, step, folder)
    merge = f"tune export {run.id} --merge, then tune serve the folder that it names"
    if str((found.plan.peft or {}).get("init_lora_weights") or "").lower() == "loftq":
        raise UsageError("a LoftQ adapter fits only the base as LoftQ rounded it, which no server makes", hint=merge)
    plan = found.plan
    if found.full:
        made = folder / "adapter"
        made.mkdir(parents=True)
        adapter.tokenizer(found, made)
        adapter.generation_config(found, made)
        model = _lay(folder, name, found.weights, made)
        return {**_facts(plan, model), "base": str(found.weights), "adapter": None, "quantization": None}
    made = adapter.make(found, lambda **_: None)
    _as_transformers_reads(made, merge)
    files = base.find(plan)
    _refuse_grown(made, files.config, merge)
    model = _lay(folder, name, files.folder, made)
    return {**_facts(plan, model), "base": str(files.folder), "adapter": str(made), "quantization": plan.quantization}


def of_folder(path: Path, folder: Path, name: str) -> dict[str, Any]:
    """Lays out a model's or an adapter's folder, in the types of its files. Errors as `of_run`."""
    from transformers import AutoTokenizer

    from nothing_tune.engine.export import base, stops

    pickles.refuse(path)
    settings = read_json(path / "adapter_config.json")
    files = path
    if settings:
        named = str(settings.get("base_model_name_or_path") or "")
        plan: Any = _Named({"name_or_path": named, "revision": settings.get("revision")})
        files = base.find(plan).folder
    made = folder / "adapter"
    made.mkdir(parents=True)
    for file in path.iterdir():
        if file.is_file() and (file.name.startswith(FROM_ADAPTER) or (settings and file.name.startswith("adapter_"))):
            shutil.copyfile(file, made / file.name) if file.suffix != ".safetensors" else (made / file.name).symlink_to(
                file
            )
    own = made if (made / "tokenizer_config.json").is_file() else files
    tok = AutoTokenizer.from_pretrained(own)
    known = read_json(made / "generation_config.json") or read_json(files / "generation_config.json") or {}
    write_json(made / "generation_config.json", {**known, "eos_token_id": stops.stops(tok, known)})
    if settings:
        _as_transformers_reads(made, "merge it first, then serve the merged folder")
        tok.save_pretrained(made) if own is files else None
        _refuse_grown(made, read_json(files / "config.json") or {}, "merge it first, then serve the merged folder")
    model = _lay(folder, name, files, made)
    return {
        "model": str(model), "base": str(files), "adapter": str(made) if settings else None, "quantization": None, "dtype": "auto",
        "attention": None, "cpu": False, "trust_remote_code": False, "context": _context(model),
    }  # fmt: skip


class _Named:
    """As much of a plan as the base is found by."""

    def __init__(self, model: dict[str, Any]) -> None:
        self.model = model


def _facts(plan: Plan, model: Path) -> dict[str, Any]:
    init = plan.model.get("init") or {}
    return {
        "model": str(model),
        "dtype": str(init.get("dtype") or "auto"),
        "attention": init.get("attn_implementation"),
        "cpu": bool(plan.training.get("use_cpu")),
        "trust_remote_code": bool(plan.model.get("trust_remote_code")),
        "context": _context(model),
    }


def _context(model: Path) -> int | None:
    config = read_json(model / "config.json") or {}
    limit = (config.get("text_config") or config).get("max_position_embeddings")
    return int(limit) if limit else None


def _as_transformers_reads(made: Path, hint: str) -> None:
    """Names the magnitudes of DoRA in `made` as transformers' own loader looks for them; it passes over PEFT's name without a word.

    Read in and measured with transformers 5.23: LoRA of every kind but DoRA answers exactly as through PEFT; other methods were not
    measured, so they are refused (`UsageError`).
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    kind = str((read_json(made / "adapter_config.json") or {}).get("peft_type") or "LORA").upper()
    if kind != "LORA":
        raise UsageError(
            f"a server may load {kind} wrongly: only LoRA and its kin are served beside their base", hint=hint
        )
    path = made / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as handle:
        if not any(name.endswith(MAGNITUDE) for name in handle.keys()):  # noqa: SIM118  no mapping
            return
    tensors = {f"{n}.weight" if n.endswith(MAGNITUDE) else n: t for n, t in load_file(path).items()}
    path.unlink()  # it may be a link to the run's own
    save_file(tensors, path, metadata={"format": "pt"})


def _refuse_grown(made: Path, config: dict[str, Any], hint: str) -> None:
    """`UsageError` where the adapter's tokenizer has tokens that the base has no rows for: servers load the base as it is."""
    from transformers import AutoTokenizer

    rows = (config.get("text_config") or config).get("vocab_size")
    if rows and len(AutoTokenizer.from_pretrained(made)) > int(rows):
        raise UsageError("the run added tokens, for which the base as a server loads it has no room", hint=hint)


def _lay(folder: Path, name: str, base: Path, made: Path) -> Path:
    """Links the base's files and those of `made` into one folder, as the hub's cache holds a model; returns it."""
    commit = hashlib.sha1(name.encode()).hexdigest()
    cached = folder / "hub" / f"models--{name}"
    model = cached / "snapshots" / commit
    model.mkdir(parents=True)
    (cached / "refs").mkdir()
    write_text(cached / "refs" / "main", commit)
    _link(sorted(p for p in made.iterdir() if p.is_file()), model)
    beside = (p for p in sorted(base.iterdir()) if p.is_file() and not p.name.startswith(FROM_ADAPTER))
    _link((p for p in beside if not (model / p.name).exists()), model)
    if not (model / "tokenizer_config.json").exists():
        _link((p for p in sorted(base.iterdir()) if p.is_file() and not (model / p.name).exists()), model)
    (folder / name).symlink_to(model)
    return model


def _link(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
