"""Plain text: `{"text": "..."}`; every token is learned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NAME = "text"
WANTS = "a column `text`"


def matches(columns: Collection[str], row: Mapping[str, Any]) -> bool:
    """Whether there is a `text` column that holds strings."""
    return "text" in columns and isinstance(row.get("text"), str)


def check(row: Mapping[str, Any]) -> str | None:
    """The text is a string that is not empty."""
    value = row.get("text")
    if not isinstance(value, str) or not value.strip():
        return "`text` is not a string with something in it"
    return None
