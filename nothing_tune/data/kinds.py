"""Rows of several kinds in one file: prompts with their completions as conversations, where other rows are conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def united(kinds: Iterable[str]) -> str | None:
    """The kind in which rows of all `kinds` can stand together; None when there is none, as text goes with no other.

    `messages` and `prompt-completion` meet in `messages`.
    """
    found = set(kinds)
    if len(found) == 1:
        return found.pop()
    return None if "text" in found else "messages"


def as_messages(value: Mapping[str, Any]) -> dict[str, Any]:
    """A canonical row as `messages`: a prompt is the user's turn and its completion the assistant's; messages stay as they are.

    Where both are lists of messages they follow one another, and what the assistant says in the prompt has weight 0: only
    the completion is learned, as before. Other columns are kept.
    """
    if "messages" in value:
        return dict(value)
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, str):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    else:
        asked = [{**turn, "weight": 0} if turn.get("role") == "assistant" else turn for turn in prompt]
        turns = [*asked, *completion]
    kept = {name: column for name, column in value.items() if name not in ("prompt", "completion")}
    return {"messages": turns, **kept}
