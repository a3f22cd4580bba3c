"""Looks at the model or GPU that an answer names. What is found are facts, or a problem with its cure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from nothing_tune.errors import Problem, UsageError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![A-Za-z0-9])", re.IGNORECASE)
_TALKS = re.compile(r"(?<![a-z])(instruct|chat|it|sft|dpo|rlhf|assistant|tulu|hermes|zephyr|vicuna)(?![a-z])")


@dataclass(frozen=True)
class Model:
    """A base model as far as it is known without loading it.

    Attributes:
        name: Hub id, or folder as it was written.
        layer: Its layer in the library, such as `models/nano`; empty where it has none.
        parameters_b: Size in 10^9 parameters; None is unknown.
        source: Where the size is from.
        license: As the library tells it; empty is unknown.
        gated: Whether its owner asks to accept terms; None is unknown.
        template: Whether it has a chat template; None is unknown.
        config: Its config.json, or the library's facts in its words; None where neither is at hand.
    """

    name: str
    layer: str = ""
    parameters_b: float | None = None
    source: str = ""
    license: str = ""
    gated: bool | None = None
    template: bool | None = None
    config: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> str:
        """`3.2 B`, `5 M`, `size unknown`."""
        b = self.parameters_b
        if b is None:
            return "size unknown"
        return f"{b:.3g} B" if b >= 0.95 else f"{b * 1000:.0f} M"

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens; None where unknown."""
        inner = (self.config or {}).get("text_config")
        value = (inner if isinstance(inner, Mapping) else self.config or {}).get("max_position_embeddings")
        return int(value) if isinstance(value, int) else None

    @property
    def told(self) -> str:
        """`3.2 B parameters, licence llama3.2, gated`."""
        b = self.parameters_b
        parts = [f"{self.size} parameters" if b is not None else self.size]
        parts += [f"by {self.source}"] if self.source and self.source != "the library" else []
        parts += [f"licence {self.license}"] if self.license else []
        parts += ["gated"] if self.gated else []
        return ", ".join(parts)


@lru_cache(maxsize=1)
def library_models() -> dict[str, Model]:
    """The models of the library by their short names."""
    from nothing_tune.recipe.library import library_root, names
    from nothing_tune.recipe.reader import read_file
    from nothing_tune.run.architecture import as_config

    out = {}
    for name in names("models"):
        path = library_root() / "models" / f"{name}.yaml"
        told = read_file(path)[0].get("model") or {}
        folder = path.parent / str(told.get("name_or_path"))
        facts = told.get("facts")
        config = _config(folder) if folder.is_dir() else as_config(facts) if isinstance(facts, dict) else None
        comment = " ".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
        template = _template(folder) if folder.is_dir() else "without a chat template" not in comment
        out[name] = Model(
            name=str(told["name_or_path"]),
            layer=f"models/{name}",
            parameters_b=told.get("parameters_b") or _counted(config),
            source="the library",
            license=str(told.get("license") or ""),
            gated=told.get("gated"),
            template=template,
            config=config,
        )
    return out


@lru_cache(maxsize=32)
def model(text: str) -> Model:
    """The model that `text` means: one of the library, a folder, a hub id or its address. `UsageError` with near names otherwise."""
    from nothing_tune.data.hub import cached_config

    text = re.sub(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/", "", text.strip()).removeprefix("models/")
    text = text.rstrip("/ ") or text
    known = library_models()
    if text.lower() in known:
        return known[text.lower()]
    for found in known.values():
        if text.lower() == found.name.lower():
            return found
    folder = Path(text).expanduser()
    if folder.is_dir():
        config = _config(folder)
        if config is None and (wrong := _broken(folder / "config.json")):
            raise UsageError(Problem(wrong, hint="fetch the model's config.json again"))
        if config is None:
            raise UsageError(
                Problem(f"the folder {text} holds no model", hint="name a folder with a config.json, or a hub id")
            )
        size, source = _counted(config), "config.json"
        if size is None:
            size, source = _named(folder.absolute().name), "its name"
        return Model(text, "", size, source if size else "", "", False, _template(folder), config)
    if folder.is_file():
        raise UsageError(Problem(f"{text} is a file, not a model", hint="name the folder that holds config.json"))
    if HUB_ID.fullmatch(text) and not text.startswith((".", "/", "~")):
        path = cached_config(text)
        config = _config(path.parent) if path else None
        size, source = _counted(config), "config.json"
        if size is None:
            size, source = _named(text.rsplit("/", 1)[-1]), "its name"
        template = _template(path.parent) if path else None
        if template is False and path and not (path.parent / "tokenizer_config.json").is_file():
            template = None
        if template is None and _TALKS.search(text.lower()):
            template = True
        return Model(text, "", size, source if size else "", template=template, config=config)
    raise UsageError(Problem(f"{text!r} is no model", hint=_near_model(text, known)))


def _near_model(text: str, known: Mapping[str, Model]) -> str:
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        parent = Path(text).expanduser().parent
        beside = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        near = get_close_matches(Path(text).name, beside, n=2, cutoff=0.5)
        return f"did you mean {' or '.join(str(parent / n) for n in near)}?" if near else "there is no such folder"
    lower = text.lower().replace(" ", "-")
    near = [name for name in known if lower in name][:2] or get_close_matches(lower, list(known), n=2, cutoff=0.5)
    cure = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{cure}a hub id is ORG/NAME, a folder holds config.json; tune list models shows the library"


def _named(name: str) -> float | None:
    """10^9 parameters as a model's name tells them: 7 of `Mistral-7B`, 0.36 of `SmolLM-360M`, 56 of `Mixtral-8x7B` (a little too much)."""
    found = _SIZE.search(name.replace("_", "-"))
    if found is None:
        return None
    value = float(found[2]) * int(found[1] or 1)
    return value if found[3].lower() == "b" else value / 1000


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _broken(path: Path) -> str:
    """What is wrong with a config.json that is there, with line and column; empty where there is none."""
    if not path.exists():
        return ""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        said = error.msg[:1].lower() + error.msg[1:]
        return f"{path} is not JSON: {said} at line {error.lineno}, column {error.colno}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        return f"{path} cannot be read: {reason}"
    return "" if isinstance(value, dict) else f"{path} holds no JSON object"


def _template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return "chat_template" in json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _counted(config: Mapping[str, Any] | None) -> float | None:
    """10^9 parameters by the shapes of config.json; None where its family is not known."""
    if not config:
        return None
    from nothing_tune.plan.architecture import Unlisted, shape

    try:
        return shape(config).parameters / 1e9
    except Unlisted:
        return None


@dataclass(frozen=True)
class Gpu:
    """A GPU: `name` of its layer, its `facts`, whether it is `here`, and `machine`, what `options.load` needs to know of one that is."""

    name: str
    facts: Mapping[str, Any] = field(compare=False)
    here: bool = False
    machine: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> str:
        """`cuda`, `mps` or `cpu`."""
        return str(self.facts.get("kind") or "cuda")

    @property
    def told(self) -> str:
        """`21.8 GiB usable, bf16`, `no GPU: for small models and rehearsals`."""
        if self.kind == "cpu":
            return "no GPU: for small models and rehearsals"
        if self.kind == "mps":
            return "Apple silicon, its memory is the machine's"
        from nothing_tune.plan.memory import usable

        room = usable(self.facts)
        parts = [f"{room / (1 << 30):.1f} GiB usable" if room else "memory unknown"]
        parts += ["bf16"] if self.facts.get("bf16") else ["no bf16: fp16"] if self.facts.get("bf16") is False else []
        return ", ".join(parts)


@lru_cache(maxsize=1)
def gpus() -> dict[str, Gpu]:
    """The GPUs of the library by name, the one of this machine first."""
    from nothing_tune.recipe.library import library_root, names
    from nothing_tune.recipe.machine import this_machine
    from nothing_tune.recipe.reader import read_file

    machine = this_machine()
    out = {}
    for name in names("gpus"):
        facts = dict(read_file(library_root() / "gpus" / f"{name}.yaml")[0].get("gpu") or {})
        here = name == machine["name"]
        out[name] = Gpu(name, {**facts, **(machine["facts"] if here else {})}, here, machine if here else None)
    order = sorted(out.values(), key=lambda g: (not g.here, g.kind != "cuda", g.facts.get("memory_gb") or 0, g.name))
    return {g.name: g for g in order}


def gpu(text: str) -> Gpu:
    """The GPU that `text` means: a name, what its driver calls it, or `here`. `UsageError` with near names otherwise."""
    known = gpus()
    plain = re.sub(r"[\s_]+", "-", text.strip().lower()).removeprefix("nvidia-").removeprefix("geforce-")
    if plain in ("here", "local", "this", "mine"):
        return next(g for g in known.values() if g.here)
    if plain in known:
        return known[plain]
    for found in known.values():
        if text.strip().lower() in (str(n).lower() for n in found.facts.get("vendor_names") or ()):
            return found
    near = [n for n in known if n.startswith(plain) or n.replace("-", "") == plain.replace("-", "")]
    near = near or get_close_matches(plain, list(known), n=3, cutoff=0.6)
    cure = f"did you mean {' or '.join(near)}?" if near else f"one of: here, {', '.join(known)}"
    raise UsageError(Problem(f"there is no GPU {text.strip()!r} in the library", hint=cure))
