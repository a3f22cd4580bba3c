"""Plain text: `{"text": "..."}`; every token is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._values import BadRow, filled, others

NAME = "text"
WANTS = "a column `text`"
KIND = "text"
OVER: tuple[str, ...] = ()

SPEAKERS = ("speaker", "character")
"""Columns that make `text` one line of a transcript."""
RENDERED = (("instruction", "output"), ("prompt", "completion"))
"""Pairs of columns of which `text` is often only a rendering, as in the published Alpaca file."""


def matches(row: Mapping[str, Any]) -> bool:
    """Whether there is a `text` that stands for itself: no line of a transcript, no rendering of other columns."""
    text = row.get("text")
    if not isinstance(text, str) or any(isinstance(row.get(name), str) for name in SPEAKERS):
        return False
    pairs = [(row.get(a), row.get(b)) for a, b in RENDERED]
    return not any(isinstance(a, str) and isinstance(b, str) and a and a in text and b in text for a, b in pairs)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row with its text; `BadRow` where there is none."""
    if row.get("text") is None:
        raise BadRow("there is no `text`")
    return [{"text": filled(row["text"], "`text`"), **others(row, ())}]
