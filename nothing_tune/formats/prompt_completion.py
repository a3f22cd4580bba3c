"""Pairs: `{"prompt": ..., "completion": ...}`, both strings or both lists of messages; only the completion is learned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NAME = "prompt-completion"
WANTS = "columns `prompt` and `completion`"


def matches(columns: Collection[str], row: Mapping[str, Any]) -> bool:
    """Whether both columns are there."""
    return "prompt" in columns and "completion" in columns


def check(row: Mapping[str, Any]) -> str | None:
    """Both are strings, or both are lists of messages; the completion is not empty."""
    prompt, completion = row.get("prompt"), row.get("completion")
    for name, value in (("prompt", prompt), ("completion", completion)):
        if not isinstance(value, str | list):
            return f"`{name}` is neither a string nor a list of messages"
    if isinstance(prompt, str) != isinstance(completion, str):
        return "`prompt` and `completion` are not of the same kind"
    if not completion or (isinstance(completion, str) and not completion.strip()):
        return "`completion` is empty"
    return None
