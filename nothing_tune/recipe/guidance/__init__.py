"""What we say of each key beyond its type and range: what it does, its unit, and what other values of it do, with sources.

One YAML file a section lies beside this module, with one entry a key, relative to the section (`*` is the section itself,
`NAME` a name of one's own, `r@VERA` what is said of r where the method is VERA):

    learning_rate:
      what: "..."                                     one or two sentences; our own keys have theirs in `schema.py`
      short: "..."                                    the same in some words, for lists, where `what` is long
      unit: "..."                                     of a number; left out for keys that hold none
      default: "..."                                  only where the plan derives it
      range: "..."                                    only where neither `schema.py` nor `ranges.py` nor upstream has one
      types: [...]                                    only where none of them has the type, as in `upstream.Option.types`
      alternatives: [["1e-4", "effect", source], ...]
      notes: [["advice", source], ...]
      see: [training.warmup_steps, ...]
      same: training.other                            an older name of another key, and nothing else

`source` is one or more of `SOURCES`, or a text of its own such as `arXiv 2305.14314`, apart by commas; without one the line is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
TOP = "top"
"""File of the keys that stand in no section."""

SOURCES: dict[str, tuple[str, str]] = {
    "nothing-gpt": ("Nothing-GPT", "Nothing-GPT, training configuration reference"),
    "marco": ("Marco", "Marco, LoRA training parameters"),
    "studio": ("PEFT Studio", "PEFT Studio, training configuration guide"),
    "nemotron": ("Nemotron guide", "Nemotron function calling, training guide"),
    "trl": ("TRL", "TRL 1.16, documentation of SFTConfig"),
    "transformers": ("transformers", "transformers 5.23, documentation"),
    "peft": ("PEFT", "PEFT 0.21, documentation"),
    "flash-attention": ("FlashAttention", "flash-attention, README"),
    "llama.cpp": ("llama.cpp", "llama.cpp, README of its quantize tool"),
    "torch": ("PyTorch", "PyTorch 2.13, documentation"),
}
"""Source -> (its short name, its title)."""

LIKE = {
    "data.eval.": "data.train.",
    "generate.prompts.": "data.train.",
    "generate.groups.NAME.sampling.": "generate.sampling.",
}
"""Keys that are as others: how they begin -> how those begin."""
FREE = ("gpu.sources.", "advice.accept.")
"""How keys begin that one mapping's entry speaks of."""


@dataclass(frozen=True)
class Said:
    """One thing said of a key.

    Attributes:
        text: The effect of a value, or advice.
        value: The value that has the effect, as one would write it or in words; empty for advice.
        sources: Who says so, keys of `SOURCES` or texts; empty when we do.
    """

    text: str
    value: str = ""
    sources: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' short names."""
        return tuple(SOURCES[s][0] if s in SOURCES else s for s in self.sources)

    @property
    def titles(self) -> tuple[str, ...]:
        """The sources' titles."""
        return tuple(SOURCES[s][1] if s in SOURCES else s for s in self.sources)


@dataclass(frozen=True)
class Guidance:
    """The entry of one key; see the module. Empty where the entry says nothing.

    Attributes:
        key: Dotted key of the entry: `NAME` stands for any name, and the last part may end with `@` and a PEFT type.
    """

    key: str
    what: str = ""
    short: str = ""
    unit: str = ""
    default: str = ""
    range: str = ""
    types: tuple[str, ...] = ()
    alternatives: tuple[Said, ...] = ()
    notes: tuple[Said, ...] = ()
    see: tuple[str, ...] = ()
    same: str = ""


def guidance(key: str, kind: str = "LORA") -> Guidance | None:
    """The entry of a dotted key or of a section; None when there is none.

    What is below a mapping of many names (`gpu.sources.bf16`) has the mapping's entry.

    Args:
        key: Such as `training.learning_rate`, `peft`, `generate.groups.A1.target`.
        kind: The PEFT type, for what is said of one method alone.
    """
    entries = _entries(key.partition(".")[0])
    for name in (f"{key}@{kind}", key, named(key)):
        if name in entries:
            return entries[name]
    for start, like in LIKE.items():
        if named(key).startswith(start):
            return guidance(named(key).replace(start, like, 1).removesuffix("."))
    return entries.get(key.rpartition(".")[0]) if key.startswith(FREE) else None


@cache
def guided() -> tuple[str, ...]:
    """Every key that has an entry, in the order of the files; sections by their own name."""
    return tuple(key for path in sorted(FOLDER.glob("*.yaml")) for key in _read(path.stem))


def _entries(section: str) -> dict[str, Guidance]:
    return _read(section) if (FOLDER / f"{section}.yaml").is_file() and section != TOP else _read(TOP)


@cache
def _read(section: str) -> dict[str, Guidance]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    raw = yaml.load((FOLDER / f"{section}.yaml").read_text(encoding="utf-8"), loader)
    prefix = "" if section == TOP else f"{section}."
    return {_key(section, prefix, name): _entry(_key(section, prefix, name), body) for name, body in raw.items()}


def _key(section: str, prefix: str, name: str) -> str:
    return section if name == "*" else f"{prefix}{name}"


def _entry(key: str, body: dict[str, Any]) -> Guidance:
    body = dict(body)
    alternatives = tuple(Said(row[1], row[0], _sources(row[2:])) for row in body.pop("alternatives", ()))
    notes = tuple(Said(row[0], "", _sources(row[1:])) for row in body.pop("notes", ()))
    see, types = tuple(body.pop("see", ())), tuple(body.pop("types", ()))
    return Guidance(key, alternatives=alternatives, notes=notes, see=see, types=types, **body)


def _sources(row: list[str]) -> tuple[str, ...]:
    return tuple(row[0].split(", ")) if row else ()


def named(key: str) -> str:
    """`generate.groups.NAME.target` for `generate.groups.A1.target`; any other key as it is."""
    parts = key.split(".")
    return ".".join([*parts[:2], "NAME", *parts[3:]]) if parts[:2] == ["generate", "groups"] and parts[2:] else key
