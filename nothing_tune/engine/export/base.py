"""Finds the base model's files: 16-bit or wider safetensors in a folder, in the hub's cache, or downloaded."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from nothing_tune.data.hub import hub_problem, offline
from nothing_tune.engine.export import tensors
from nothing_tune.engine.export.source import Base, refuse_gone
from nothing_tune.errors import Problem, StorageError, UsageError
from nothing_tune.plan.model import Plan

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BESIDE = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "chat_template*", "*.jinja", "*.model", "preprocessor_config.json", "processor_config.json", "*.py", "README.md",
)  # fmt: skip
"""What is downloaded next to the weights."""
_KEY = "model.name_or_path"


def find(plan: Plan) -> Base:
    """The base model of `plan`: its folder, else the hub's cache, else a download of what is needed.

    Raises:
        UsageError: It is not there, it is quantised, its weights are not safetensors, or files are missing.
        StorageError: A file is damaged, or the disk is full.
    """
    name = str(plan.model.get("name_or_path") or "")
    path = Path(name).expanduser()
    if path.is_dir():
        return at(path)
    refuse_gone(plan, "put it back there; an adapter alone needs no base, but merging does")
    return at(_from_hub(name, str(plan.model.get("revision") or "main")))


def generation_config(plan: Plan) -> dict[str, Any]:
    """The base's generation_config.json where it is on this disk; empty otherwise. Never downloads."""
    name = str(plan.model.get("name_or_path") or "")
    path = Path(name).expanduser() / "generation_config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(
                name, "generation_config.json", revision=str(plan.model.get("revision") or "main")
            )
        except HFValidationError:
            return {}
        if not isinstance(found, str):
            return {}
        path = Path(found)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def at(folder: Path) -> Base:
    """The model in `folder`. Errors as `find`."""
    config = _json(folder / "config.json")
    if config is None:
        raise UsageError(Problem(f"{folder.absolute()} holds no model: it has no config.json", key=_KEY))
    _refuse_quantised(folder, config)
    files = _files(folder)
    headers = {file: tensors.header(folder / file) for file in sorted(set(files.values()))}
    missing = [name for name, file in files.items() if name not in headers[file]]
    if missing:
        raise StorageError(
            f"{folder / files[missing[0]]} lacks {missing[0]}, which {INDEX} names", hint="fetch the base model again"
        )
    sizes: Counter[str] = Counter()
    for name, file in files.items():
        sizes[headers[file][name].dtype] += headers[file][name].size
    dtype = sizes.most_common(1)[0][0] if sizes else ""
    if dtype in ("U8", "I8", "F8_E4M3", "F8_E5M2"):
        raise _quantised(folder, f"most of its weights are {dtype}")
    return Base(folder, config, tensors.NAMES.get(dtype, dtype.lower()), files, _revision(folder), _licence(folder))


def _refuse_quantised(folder: Path, config: dict[str, Any]) -> None:
    for part in (config, config.get("text_config") or {}):
        if found := part.get("quantization_config"):
            method = str((found or {}).get("quant_method") or "a method of its own")
            raise _quantised(folder, f"config.json names {method}")


def _quantised(folder: Path, why: str) -> UsageError:
    return UsageError(
        Problem(
            f"the base model is quantised itself, so nothing can be merged into it without rounding twice: {why} ({_called(folder)})",
            key=_KEY,
            hint="name the 16-bit repository it was made from, such as the one without bnb-4bit, AWQ, GPTQ or FP8 in its name",
        )
    )


def _files(folder: Path) -> dict[str, str]:
    """File of each tensor, in the order of the files and of what lies in them."""
    index = _json(folder / INDEX)
    if index is not None:
        listed = {str(k): str(v) for k, v in (index.get("weight_map") or {}).items()}
        if any(Path(file).name != file for file in listed.values()):
            raise StorageError(f"{folder / INDEX} names files outside its folder", hint="fetch the base model again")
        gone = sorted({file for file in listed.values() if not (folder / file).is_file()})
        if gone:
            raise UsageError(
                Problem(f"the base model is not whole: {gone[0]} is not in {folder}", key=_KEY, hint="fetch it again")
            )
        order = {
            n: (file, entry.begin)
            for file in set(listed.values())
            for n, entry in tensors.header(folder / file).items()
        }
        return dict(sorted(listed.items(), key=lambda item: order.get(item[0], (item[1], 0))))
    if (folder / SINGLE).is_file():
        entries = tensors.header(folder / SINGLE)
        return dict.fromkeys(sorted(entries, key=lambda n: entries[n].begin), SINGLE)
    pickled = sorted(p.name for pattern in ("pytorch_model*.bin", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickled:
        raise UsageError(
            Problem(
                f"the weights of {_called(folder)} are a pickle ({pickled[0]}), which may run programs when it is read",
                key=_KEY,
                hint="convert it to safetensors where you trust it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(FOLDER)",
            )
        )
    raise UsageError(
        Problem(f"there are no safetensors weights in {folder}", key=_KEY, hint="fetch the base model again")
    )


def _from_hub(name: str, revision: str) -> Path:
    """Folder of a hub model with its weights, from the cache where they are all there, else downloaded."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if (cached / "config.json").is_file() and _weights_there(cached):
            return cached
    except Exception as error:  # not in the cache
        if offline():
            raise UsageError(hub_problem(error, name, _KEY)) from error
    if offline():
        raise UsageError(
            Problem(
                f"the weights of {name} are not in the local cache, and HF_HUB_OFFLINE is set",
                key=_KEY,
                hint="unset HF_HUB_OFFLINE, or name a local folder",
            )
        )
    try:
        listed = HfApi().list_repo_files(name, revision=revision)
        weights = [SINGLE] if SINGLE in listed and INDEX not in listed else [INDEX, "model-*.safetensors"]
        if not any(file.endswith(".safetensors") for file in listed):
            weights = []
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*BESIDE, *weights]))
    except OSError as error:
        if error.errno:
            raise StorageError(f"cannot download {name}: {os.strerror(error.errno)}", hint="free some space") from error
        raise UsageError(hub_problem(error, name, _KEY)) from error
    except Exception as error:
        raise UsageError(hub_problem(error, name, _KEY)) from error


def _weights_there(folder: Path) -> bool:
    index = _json(folder / INDEX)
    if index is None:
        return (folder / SINGLE).is_file()
    return all((folder / str(file)).is_file() for file in set((index.get("weight_map") or {}).values()))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}", hint="fetch the base model again") from error
    if not isinstance(found, dict):
        raise StorageError(f"{path} is damaged", hint="fetch the base model again")
    return found


def _called(folder: Path) -> str:
    """`org/name` of a folder in the hub's cache, else the folder."""
    found = re.search(r"models--([^/]+)/snapshots/", f"{folder}/")
    return found[1].replace("--", "/") if found else str(folder)


def _revision(folder: Path) -> str:
    """Commit of a folder in the hub's cache; empty for others."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _licence(folder: Path) -> str:
    """Licence that the card's front matter names; empty without one."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    matter = re.match(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", text, re.DOTALL)
    if matter is None:
        return ""
    found = {
        k: v.strip().strip("\"'")
        for k, v in re.findall(r"^(license|license_name|license_link):[ \t]*(.*)$", matter[1], re.MULTILINE)
    }
    named = found.get("license", "")
    return found.get("license_name") or named if named == "other" else named
