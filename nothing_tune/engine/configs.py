"""What may be wrong with a model's folder before any weight is read: its config.json and its tokenizer's files, in words for people.

Rehearsal, simulation, inspection and training all ask here, so that one fault has one text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nothing_tune.data import hub
from nothing_tune.errors import Problem, UsageError
from nothing_tune.plan.model import Plan

KEY = "model.name_or_path"
MEND = "mend config.json, or download the model again"
NEWER = "take a newer transformers, or model.trust_remote_code=true where the model brings its code"
COPY = "download the model again with its tokenizer, or copy the tokenizer's files of the model that it was made from"
VOCABULARIES = (".model", ".tiktoken", ".spm", ".bpe", ".vocab")
"""Endings of files that hold a vocabulary, besides the names in `_holds_vocabulary`."""
BYTES = ("byt5", "canine", "perceiver", "byte")
"""Parts of the class names of tokenizers that need no files: their tokens are bytes or characters."""
FEW = 1000
"""Tokens from which a tokenizer is not looked through for words."""


def check_json(folder: Path) -> None:
    """`UsageError` where config.json in `folder` cannot be read as a JSON object."""
    path = (folder / "config.json").absolute()
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _no_json(path, f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        said = f"{error.msg[:1].lower()}{error.msg[1:]}"
        raise _no_json(path, f"line {error.lineno}, column {error.colno}: {said}") from error
    except OSError as error:
        wrong = Problem(f"{path} cannot be read: {error.strerror}", key=KEY, hint="look at its permissions")
        raise UsageError(wrong) from error
    if not isinstance(values, dict):
        raise UsageError(Problem(f"{path} holds no JSON object", key=KEY, hint=MEND))


def _no_json(path: Path, why: str) -> UsageError:
    return UsageError(Problem(f"{path} is no JSON: {why}", key=KEY, hint=MEND))


def unknown(name: str, kind: str) -> Problem:
    """The installed transformers has no architecture `kind` (model_type), which the model `name` names."""
    import transformers

    if not kind:
        return Problem(f"config.json of {name} names no model_type", key=KEY, hint=MEND)
    what = f"transformers {transformers.__version__} does not know the architecture {kind!r} of {name}"
    return Problem(what, key=KEY, hint=NEWER)


def refused(name: str, error: BaseException) -> Problem:
    """transformers knows the architecture of the model `name`, and refuses its values."""
    return Problem(f"config.json of {name} cannot be used: {hub.words(error)}", key=KEY, hint=MEND)


def trouble(plan: Plan, name: str, given: Mapping[str, Any] | None = None) -> Problem | None:
    """What is wrong with the config of the model `name`: `given`, else that of its folder or in the hub's cache; None for nothing."""
    from transformers import CONFIG_MAPPING

    values = _values(name) or given
    if values is None or (values.get("auto_map") and plan.model.get("trust_remote_code")):
        return None
    kind = str(values.get("model_type") or "")
    if kind not in CONFIG_MAPPING:
        return unknown(name, kind)
    try:
        CONFIG_MAPPING[kind].from_dict(dict(values))
    except Exception as error:  # each config class refuses in its own way
        return refused(name, error)
    return None


def no_tokenizer(folder: Path) -> Problem | None:
    """A folder with a model and none of the files that a tokenizer is made of; None where there is one."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    own_code = any(name.startswith("tokenization_") and name.endswith(".py") for name in names)
    if own_code or any(_holds_vocabulary(name) for name in names):
        return None
    kind = str((_read(folder / "tokenizer_config.json") or {}).get("tokenizer_class") or "").lower()
    if any(part in kind for part in BYTES):
        return None
    looked = "it has none of tokenizer.json, tokenizer.model, vocab.json with merges.txt, vocab.txt"
    return Problem(f"{folder.absolute()} holds no tokenizer: {looked}", key=KEY, hint=COPY)


def half_tokenizer(name: str) -> Problem | None:
    """A folder with vocab.json as all that its tokenizer could be made of, without merges.txt; None for others."""
    folder = Path(name)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if [n for n in names if _holds_vocabulary(n)] != ["vocab.json"] or "merges.txt" in names:
        return None
    what = f"{folder.absolute()} holds half a tokenizer: it has vocab.json and no merges.txt"
    return Problem(what, key=KEY, hint=COPY)


def empty_tokenizer(name: str, tokenizer: Any) -> Problem | None:
    """A tokenizer that knows no words, or cannot put them together; None where it can be used.

    transformers makes an empty one where files are missing, and says nothing.
    """
    if "merges_file" in (getattr(tokenizer, "vocab_files_names", None) or {}) and (half := half_tokenizer(name)):
        return half
    if len(tokenizer) >= FEW:
        return None
    special = {*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}
    if set(tokenizer.get_vocab()) - special:
        return None
    count = len(tokenizer)
    knows = f"only {count} special token{'' if count == 1 else 's'}" if count else "no token"
    return Problem(f"the tokenizer of {name} is empty: it knows {knows}", key=KEY, hint=COPY)


def _holds_vocabulary(name: str) -> bool:
    if name in ("tokenizer_config.json", "merges.txt", "config.json"):
        return False
    return name.endswith(VOCABULARIES) or name.startswith(("tokenizer.", "vocab", "spiece", "tekken", "sentencepiece"))


def _values(name: str) -> dict[str, Any] | None:
    folder = Path(name).expanduser()
    path = folder / "config.json" if folder.is_dir() else hub.cached_config(name)
    return _read(path) if path is not None else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
