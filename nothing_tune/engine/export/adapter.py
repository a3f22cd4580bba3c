"""Makes the adapter that is exported: plain weights, a config that names the base as the run did, tokenizer, stop tokens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import fsync_dir, read_json, write_json, write_text
from nothing_tune.engine import build, handover, starts
from nothing_tune.engine.chat_templates import MARKERS
from nothing_tune.engine.export import base, stops
from nothing_tune.engine.export.source import Source
from nothing_tune.engine.job import Send
from nothing_tune.errors import StorageError, UsageError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "additional_chat_templates", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip
"""Files and folders of a tokenizer."""
READABLE = 0o644
"""Rights of the files: the library that writes safetensors lets nobody else read them, so that a server could not either."""


def make(source: Source, send: Send) -> Path:
    """Fills the adapter's folder and returns it; a complete one takes the place of what was there only at the end.

    Raises:
        UsageError: The adapter cannot be made plain, the run trained the whole model, or there is no tokenizer.
        StorageError: The disk refuses.
    """
    if source.full:
        raise UsageError(
            f"run {source.run.id} trained the whole model: it has no adapter", hint="--merge exports the model"
        )
    folder = source.adapter
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _weights(source, partial)
        tokenizer(source, partial)
        generation_config(source, partial)
        settle(partial, folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}", hint="free some space, then the same command goes on"
        ) from error
    send(type="progress", stage="adapter", done=1, total=1, unit="tensors")
    return folder


def _weights(source: Source, folder: Path) -> None:
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(source.weights / name, folder / name)
    config = _read(folder / CONFIG)
    kind = str(config.get("init_lora_weights")).lower()
    if kind.startswith(build.MOVES_BASE) and not (source.run.path / starts.FILE).is_file():
        raise UsageError(
            f"the {kind} adapter of run {source.run.id} cannot be made plain: {starts.FILE}, which it started from, is gone",
            hint=f"put {starts.FILE} back into {source.run.path}",
        )
    handover.make_plain(folder, source.run, source.plan)
    config = _read(folder / CONFIG)
    model = source.plan.model
    named = str(model.get("name_or_path") or config.get("base_model_name_or_path") or "")
    path = Path(named).expanduser()
    config["base_model_name_or_path"] = str(path.absolute()) if path.is_dir() else named
    config["revision"] = model.get("revision")
    config["inference_mode"] = True
    write_json(folder / CONFIG, config)


def tokenizer(source: Source, folder: Path) -> None:
    """Copies the run's tokenizer into `folder`, with the model's own chat template, and without what training set in it.

    Raises:
        UsageError: The weights have no tokenizer beside them.
    """
    for name in TOKENIZER:
        path = source.weights / name
        if path.is_dir():
            shutil.copytree(path, folder / name)
        elif path.is_file():
            shutil.copyfile(path, folder / name)
    if not (folder / "tokenizer_config.json").is_file():
        raise UsageError(
            f"{source.weights} has no tokenizer", hint="export what the run handed over, or a newer checkpoint"
        )
    core = folder / "tokenizer.json"
    if core.is_file():
        read = _read(core)
        if read.get("truncation") or read.get("padding"):
            write_text(core, json.dumps({**read, "truncation": None, "padding": None}, indent=2, ensure_ascii=False))
    _own_template(source, folder)


def _own_template(source: Source, folder: Path) -> None:
    """Puts the model's own template back where an older version left the one that training rendered with."""
    path = folder / "chat_template.jinja"
    text = (
        path.read_text(encoding="utf-8")
        if path.is_file()
        else _read(folder / "tokenizer_config.json").get("chat_template")
    )
    if source.plan.data.get("chat_template") or not isinstance(text, str) or not MARKERS.search(text):
        return
    own = None
    with contextlib.suppress(UsageError):  # the base is gone: what trained answers alike
        own = getattr(build.tokenizer(source.plan), "chat_template", None)
    if isinstance(own, str) and own != text:
        settings = _read(folder / "tokenizer_config.json")
        if settings.pop("chat_template", None) is not None:
            write_json(folder / "tokenizer_config.json", settings)
        write_text(path, own)


def generation_config(source: Source, folder: Path) -> None:
    """Writes generation_config.json: the base's settings with the tokens that end an answer, and padding that ends none."""
    from transformers import AutoTokenizer

    known = _read(source.weights / "generation_config.json") or base.generation_config(source.plan)
    tok = AutoTokenizer.from_pretrained(folder, trust_remote_code=bool(source.plan.model.get("trust_remote_code")))
    ends = stops.stops(tok, known)
    config = {k: v for k, v in known.items() if k not in ("eos_token_id", "transformers_version", "_from_model_config")}
    if ends:
        config["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    for name in ("bos_token_id", "pad_token_id"):
        value = getattr(tok, name)
        if value is not None:
            config[name] = value
    write_json(folder / "generation_config.json", config)


def settle(partial: Path, folder: Path) -> None:
    """Puts a complete folder in the place of an older one; a kill in between leaves one of them whole."""
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(READABLE)
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
    fsync_dir(partial)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    fsync_dir(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}
