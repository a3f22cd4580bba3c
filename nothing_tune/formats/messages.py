"""Conversations: `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "tools": ...}`.

What `transformers`' chat templates read. Kept: tool calls (arguments become objects), `tools` (a list or JSON text of
one), names, `reasoning_content`, `thinking`, `weight`, and every other key of a message that is not null. Text in parts
is joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._calls import tools
from nothing_tune.formats._turns import conversation, numbered
from nothing_tune.formats._values import BadRow, entries, listed, opens_list, others

NAME = "messages"
WANTS = "a column `messages` with lists of {role, content}"
KIND = "messages"
OVER: tuple[str, ...] = ()


def matches(row: Mapping[str, Any]) -> bool:
    """Whether there is a `messages` column that holds a list, and not ShareGPT's {from, value}."""
    turns = entries(row.get("messages"))
    if not turns:
        return opens_list(row.get("messages"))
    return not (isinstance(turns[0], Mapping) and "from" in turns[0] and turns[0].get("role") is None)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row with clean messages and tools; `BadRow` names the message that is wrong."""
    if row.get("messages") is None:
        raise BadRow("there are no `messages`")
    out = {"messages": conversation(numbered(listed(row["messages"], "`messages`"))), **others(row, ())}
    if named := tools(row.get("tools")):
        out["tools"] = named
    return [out]
