"""The options of SFTConfig, BitsAndBytesConfig and every PEFT config: names, types, choices, defaults, documentation.

They are read from the source text of the installed libraries with `ast`, so that nothing heavy is imported. What the
pinned versions have is checked in beside this file (`upstream.json`, and `upstream_docs.json` with the documentation);
the libraries themselves are read only where another version is installed.

    python -m nothing_tune.recipe.upstream_snapshot          writes both files anew from the installed versions
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nothing_tune.errors import UsageError

SNAPSHOT = Path(__file__).with_name("upstream.json")
DOCS = Path(__file__).with_name("upstream_docs.json")
DISTRIBUTIONS = {"SFTConfig": ("trl", "transformers"), "BitsAndBytesConfig": ("transformers",)}
"""Packages that decide the options of a kind; all other kinds are PEFT's."""


@dataclass(frozen=True)
class Option:
    """One option of an upstream config class.

    Attributes:
        kind: `SFTConfig`, `BitsAndBytesConfig`, a PEFT type (`LORA`, `IA3`, ...) or a class nested in one (`EvaConfig`).
        name: As upstream spells it.
        types: Some of `bool int float str list list[str] list[int] dict null any`; `int` values are valid floats.
        choices: Valid texts; empty when the source enumerates none. They bind strings, and strings in a list.
        default: Upstream's default; None also where it is computed.
        fields: Kind of the nested config whose options a dict may have; empty for free dicts.
        required: Whether upstream has no default.
    """

    kind: str
    name: str
    types: tuple[str, ...]
    choices: tuple[str, ...] = ()
    default: Any = None
    fields: str = ""
    required: bool = False

    @property
    def doc(self) -> str:
        """The first paragraph of upstream's documentation; empty where it has none."""
        return str(_docs().get(self.kind, {}).get(self.name, ""))


@cache
def options(kind: str) -> dict[str, Option]:
    """The options of `kind` in upstream's order; see `Option.kind`. `KeyError` for a kind that neither version knows."""
    stored = _snapshot()
    if not _as_pinned(kind):
        rows = _installed(kind)
        if rows is not None:
            return _options(kind, rows)
    return _options(kind, stored["options"][kind])


@cache
def peft_types() -> tuple[str, ...]:
    """All values of `peft.peft_type`, sorted."""
    if not _as_pinned("LORA"):
        from nothing_tune.recipe.upstream_source import peft_classes

        return tuple(sorted(peft_classes()))
    return tuple(_snapshot()["peft_types"])


def versions() -> dict[str, str]:
    """Versions that the snapshot was read from, by package."""
    return dict(_snapshot()["versions"])


def _options(kind: str, rows: dict[str, Any]) -> dict[str, Option]:
    return {
        name: Option(
            kind,
            name,
            tuple(row[0].split("|")),
            tuple(row[1]),
            row[2],
            row[3].get("fields", "") if len(row) > 3 else "",
            bool(row[3].get("required")) if len(row) > 3 else False,
        )
        for name, row in rows.items()
    }


@cache
def _snapshot() -> dict[str, Any]:
    return _load(SNAPSHOT)


@cache
def _docs() -> dict[str, Any]:
    if all(_as_pinned(kind) for kind in ("SFTConfig", "LORA")):
        return _load(DOCS)
    from nothing_tune.recipe.upstream_source import read_all

    return {kind: {name: row[4] for name, row in rows.items()} for kind, rows in read_all().items()}


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="install nothing-tune again") from error
    assert isinstance(data, dict)
    return data


@cache
def _as_pinned(kind: str) -> bool:
    """Whether the packages of `kind` are installed in the snapshot's versions, or not at all."""
    pinned = _snapshot()["versions"]
    return all(_has_version(name, pinned[name]) for name in DISTRIBUTIONS.get(kind, ("peft",)))


@cache
def _has_version(name: str, wanted: str) -> bool:
    # A look at the folder's name takes microseconds; importlib.metadata takes 15 ms to import.
    if any(os.path.isdir(os.path.join(entry or ".", f"{name}-{wanted}.dist-info")) for entry in sys.path):
        return True
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name) == wanted
    except PackageNotFoundError:
        return True


def _installed(kind: str) -> dict[str, Any] | None:
    from nothing_tune.recipe.upstream_source import read

    return read(kind)
