"""OpenAI's fine-tuning files: chat rows whose tool calls have their arguments as JSON text, with `weight` and `functions`.

Source: platform.openai.com/docs/api-reference/fine-tuning/chat-input (2025). Read besides `messages` and `tools`: the older
`functions` and `function_call`, the role `function` (a tool's message), `weight` 0 or 1 of the assistant's messages.
`parallel_tool_calls`, `tool_choice` and a row's `function_call` set how a request is answered, not what is learned: they
are not carried over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._calls import call, function, tools
from nothing_tune.formats._turns import conversation, numbered
from nothing_tune.formats._values import BadRow, entries, listed, others, present

NAME = "openai"
WANTS = "a column `messages` as OpenAI's fine-tuning files have it (`weight`, `functions`, arguments as JSON text)"
KIND = "messages"
OVER: tuple[str, ...] = ("messages",)

REQUEST = frozenset({"functions", "function_call", "parallel_tool_calls", "tool_choice"})
"""Columns that only these files have."""


def matches(row: Mapping[str, Any]) -> bool:
    """Whether a row of messages has anything that only these files have."""
    turns = [turn for turn in entries(row.get("messages")) if isinstance(turn, Mapping)]
    if not turns or ("from" in turns[0] and turns[0].get("role") is None):
        return False
    return any(row.get(name) is not None for name in REQUEST) or any(map(_only_here, turns))


def _only_here(turn: Mapping[str, Any]) -> bool:
    if turn.get("weight") is not None or turn.get("function_call") is not None or turn.get("role") == "function":
        return True
    made = turn.get("tool_calls")
    functions = [c.get("function") for c in made if isinstance(c, Mapping)] if isinstance(made, list | tuple) else []
    return any(isinstance(f, Mapping) and isinstance(f.get("arguments"), str) for f in functions)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row with messages, tool calls and tools in today's form; `BadRow` names the message that is wrong."""
    if row.get("messages") is None:
        raise BadRow("there are no `messages`")
    turns = [(label, _today(raw, label)) for label, raw in numbered(listed(row["messages"], "`messages`"))]
    out = {"messages": conversation(turns), **others(row, REQUEST)}
    offered = present(row, ("tools", "functions"))
    if offered == "functions":
        bare = listed(row["functions"], "`functions`")
        named = [
            {"type": "function", "function": function(f, f"`functions`, number {n}")} for n, f in enumerate(bare, 1)
        ]
    else:
        named = tools(row.get("tools"))
    if named:
        out["tools"] = named
    return [out]


def _today(raw: Any, label: str) -> Any:
    """A message with `function_call` as `tool_calls`, and the role `function` as `tool`."""
    if not isinstance(raw, Mapping):
        return raw
    message = dict(raw)
    if message.get("role") == "function":
        message["role"] = "tool"
    older = message.pop("function_call", None)
    if older is not None:
        if message.get("tool_calls"):
            raise BadRow(f"{label} has both `tool_calls` and `function_call`")
        message["tool_calls"] = [call(older, f"`function_call` of {label}")]
    return message
