"""ShareGPT: `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}], "system", "tools"}`.

Many hands write this form: the speakers' names are mapped (`ROLES`); the turns may have role/content for from/value, and the
column may be called `conversation`, or `messages` where turns have from/value. A turn `function_call` holds the call as
JSON and joins the assistant's turn right before it; a `system` column opens the conversation. A `weight` of the
assistant's turns is kept, of others it means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._calls import call, calls, tools
from nothing_tune.formats._turns import conversation, merged
from nothing_tune.formats._values import (
    BadRow,
    entries,
    from_json,
    kind,
    listed,
    opens_list,
    others,
    present,
    shortened,
    words,
)

NAME = "sharegpt"
WANTS = "a column `conversations` with lists of {from, value}"
KIND = "messages"
OVER: tuple[str, ...] = ()

COLUMNS = ("conversations", "conversation")
CALLS = frozenset({"function_call", "tool_call", "function-call"})
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bot", "chatgpt", "bard", "bing", "claude", "model", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "function_response", "function-response"), "tool"),
    **dict.fromkeys(("tool_response", "observation", "ipython"), "tool"),
}
"""Who speaks, as the files have it in lower case, and the role that it becomes."""
COMMON = ("human", "user", "gpt", "assistant", "model", "system", "tool", "function", "observation", "function_call")
"""Those of them that an error names: all would not fit on a line."""
KEPT = ("name", "tool_call_id", "reasoning_content", "thinking")
"""Keys of a turn that are carried over."""


def matches(row: Mapping[str, Any]) -> bool:
    """Whether a column holds a list of turns with from/value, or one under a name of this form has role/content.

    So does text that opens like a list, JSON or not: what is wrong with it is said when it is converted.
    """
    for name in (*COLUMNS, "messages"):
        turns = entries(row.get(name))
        turn = turns[0] if turns else None
        if isinstance(turn, Mapping) and ("from" in turn or (name != "messages" and "role" in turn)):
            return True
    return any(isinstance(row.get(name), str) and opens_list(row[name]) for name in COLUMNS)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One conversation with the roles of `messages`; `BadRow` names the turn that is wrong."""
    column = present(row, COLUMNS) or "messages"
    if row.get(column) is None:
        raise BadRow("there are no `conversations`")
    turns: list[tuple[str, dict[str, Any]]] = []
    if row.get("system") is not None and words(row["system"], "`system`").strip():
        turns.append(("`system`", {"role": "system", "content": row["system"]}))
    turns += [(f"turn {n}", _message(raw, f"turn {n}")) for n, raw in enumerate(listed(row[column], f"`{column}`"), 1)]
    out = {"messages": conversation(merged(turns)), **others(row, {*COLUMNS, "system"})}
    if named := tools(row.get("tools")):
        out["tools"] = named
    return [out]


def _message(raw: Any, label: str) -> dict[str, Any]:
    """One turn under the keys of `messages`."""
    if not isinstance(raw, Mapping):
        raise BadRow(f"{label} is {kind(raw)}, not an object with `from` and `value`")
    who = present(raw, ("from", "role"))
    if who is None:
        raise BadRow(f"{label} has no `from`")
    speaker = words(raw[who], f"`{who}` of {label}").strip().lower()
    said = present(raw, ("value", "content"))
    value = raw[said] if said else None
    if speaker in CALLS:
        return {"role": "assistant", "tool_calls": _calls(value, f"{label} ({speaker})")}
    role = ROLES.get(speaker)
    if role is None:
        raise BadRow(f"{label} is from {shortened(speaker)}, which is none of {', '.join(COMMON)}")
    message = {"role": role, "content": value, **{key: raw[key] for key in KEPT if raw.get(key) is not None}}
    if raw.get("tool_calls") not in (None, []):
        message["tool_calls"] = calls(raw["tool_calls"], f"{label} ({speaker})")
    if role == "assistant" and raw.get("weight") is not None:
        message["weight"] = raw["weight"]
    if value is None and not message.get("tool_calls"):
        raise BadRow(f"{label} ({speaker}) has no `{'content' if who == 'role' else 'value'}`")
    if not isinstance(value, str | list | tuple | None):
        raise BadRow(f"`{said}` of {label} ({speaker}) is {kind(value)}, not text")
    return message


def _calls(value: Any, place: str) -> list[dict[str, Any]]:
    """The calls in a `function_call` turn: JSON text of one or of a list of them, or already read."""
    if isinstance(value, str):
        value = from_json(words(value, place), place)
    if isinstance(value, list | tuple):
        if not value:
            raise BadRow(f"{place} makes no call")
        return [call(entry, f"{place}, call {n}") for n, entry in enumerate(value, 1)]
    return [call(value, place)]
