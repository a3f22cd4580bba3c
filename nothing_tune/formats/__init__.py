"""Row formats of training data, one file each: the file's name is the format's name, dashes written as underscores.

A format module has `NAME`, `WANTS` (one line: the columns it needs), `matches(columns, row)` and `check(row)`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast

from nothing_tune.errors import UsageError
from nothing_tune.formats import messages, prompt_completion, text


class Format(Protocol):
    """What a format module offers."""

    NAME: str
    WANTS: str

    def matches(self, columns: Collection[str], row: Mapping[str, Any]) -> bool:
        """Whether rows with these columns, of which `row` is the first, are of this format."""

    def check(self, row: Mapping[str, Any]) -> str | None:
        """What is wrong with `row`, as one clause; None when it can be trained on."""


FORMATS: tuple[Format, ...] = tuple(cast(Format, m) for m in (messages, prompt_completion, text))
"""All formats, in the order in which `detect` asks them."""


def names() -> list[str]:
    """The names that `data.format` takes besides `auto`."""
    return [f.NAME for f in FORMATS]


def find(name: str) -> Format:
    """The format called `name`; `UsageError` names the ones that exist."""
    for f in FORMATS:
        if name == f.NAME:
            return f
    raise UsageError(f"there is no data format {name!r}", hint=f"data.format is one of auto, {', '.join(names())}")


def detect(columns: Collection[str], row: Mapping[str, Any], source: str = "the data") -> Format:
    """The format of rows with `columns`; `UsageError` says which columns were found and what each format wants."""
    for f in FORMATS:
        if f.matches(columns, row):
            return f
    wants = "; ".join(f"{f.NAME}: {f.WANTS}" for f in FORMATS)
    found = ", ".join(columns) or "none"
    raise UsageError(
        f"{source} has no format that is known: its columns are {found}", hint=f"rows need one of: {wants}"
    )
