"""Conversations: `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "tools": ...}`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NAME = "messages"
WANTS = "a column `messages` with lists of {role, content}"
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def matches(columns: Collection[str], row: Mapping[str, Any]) -> bool:
    """Whether there is a `messages` column that holds lists."""
    return "messages" in columns and isinstance(row.get("messages"), list)


def check(row: Mapping[str, Any]) -> str | None:
    """Every message needs a known role and text (or tool calls); at least one is the assistant's."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        return "`messages` is not a list of messages"
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping) or "role" not in turn:
            return f"message {number} has no `role`"
        if turn["role"] not in ROLES:
            return f"message {number} has the role {turn['role']!r}, which is none of {', '.join(sorted(ROLES))}"
        content = turn.get("content")
        if turn["role"] == "assistant" and turn.get("tool_calls"):
            continue
        if not isinstance(content, str | list):
            return f"message {number} has no text in `content`"
    if not any(turn["role"] == "assistant" for turn in turns):
        return "no message is the assistant's, so there is nothing to learn from"
    return None
