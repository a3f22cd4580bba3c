"""Writes tools and tool calls as text, the way Glaive's function calling data does, for chat templates that cannot show them.

Functions go into the system message, a call becomes `<functioncall> {"name": ..., "arguments": {...}}` in the assistant's
turn, a result stays a `tool` message where the template shows that role and becomes a user turn where it does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

FUNCTIONS = (
    "You are a helpful assistant with access to the following functions. Use them if required -\n"  # as Glaive has it
)
CALL = "<functioncall> "
RESULT = "FUNCTION RESPONSE: "
ID_LENGTH = 9
"""Letters and digits of a tool call's id where a template demands ids: what Mistral's templates accept."""


class Shown(Protocol):
    """What a chat template shows (`chat_templates.Choice`): `tools`, `roles` and `call_ids`."""

    @property
    def tools(self) -> str:
        """`template`, or `text` when functions and calls must be text."""

    @property
    def roles(self) -> Collection[str]:
        """Which of system, developer and tool are shown."""

    @property
    def call_ids(self) -> bool:
        """Whether tool calls must carry ids."""


def rendered_by(
    shown: Shown, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """`(messages, tools)` as they are given to a template that shows `shown`; the arguments stay as they are.

    An assistant message without content gets an empty one, empty lists of calls go, `developer` becomes `system` where
    only that is shown, and tool calls get ids where the template demands them.
    """
    out = [_plain(message) for message in messages]
    for message in out:
        if message["role"] == "developer" and "developer" not in shown.roles and "system" in shown.roles:
            message["role"] = "system"
    if shown.tools == "text":
        return written(out, tools, shown.roles), None
    if shown.call_ids:
        _identify(out)
    return out, [dict(tool) for tool in tools] if tools else None


def as_text(row: Mapping[str, Any], roles: Collection[str] = ("system",)) -> dict[str, Any]:
    """A canonical row without tools and tool calls: both are text in it. Other columns stay, and the row given is not changed.

    Args:
        row: `messages`, or `prompt` and `completion` as messages, with or without `tools`. A row of plain text is returned as it is.
        roles: Roles besides user and assistant that the template shows.
    """
    out = {key: value for key, value in row.items() if key != "tools"}
    if "messages" in row:
        out["messages"] = written(row["messages"], row.get("tools"), roles)
    elif isinstance(row.get("prompt"), list):
        out["prompt"] = written(row["prompt"], row.get("tools"), roles)
        out["completion"] = written(row["completion"], None, roles)
    return out


def written(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, roles: Collection[str]
) -> list[dict[str, Any]]:
    """`messages` with `tools` and calls as text; as many assistant messages as before, in the same order.

    Results that follow one another become one user turn where `tool` is not among `roles`.
    """
    out: list[dict[str, Any]] = []
    follows = False  # the message before was a result as well
    for message in messages:
        result = message["role"] == "tool" and "tool" not in roles
        if result and follows:
            out[-1]["content"] += f"\n\n{RESULT}{_text(message)}"
        elif result:
            out.append({"role": "user", "content": f"{RESULT}{_text(message)}"})
        else:
            kept = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
            lines = [_text(message)] if _text(message) else []
            lines += [call_text(call) for call in message.get("tool_calls") or []]
            out.append({**kept, "content": "\n".join(lines)})
        follows = result
    return _introduced(out, tools, roles) if tools else out


def call_text(call: Mapping[str, Any]) -> str:
    """One tool call as text; its arguments may be a mapping or JSON text."""
    function = call.get("function") or call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # not JSON: the text stands as it is, quoted
            arguments = json.loads(arguments)
    body = {"name": function["name"], "arguments": {} if arguments is None else arguments}
    return CALL + json.dumps(body, ensure_ascii=False)


def functions_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """The functions as Glaive's system messages list them: indented JSON, an empty line between two."""
    return "\n\n".join(json.dumps(tool.get("function") or tool, indent=4, ensure_ascii=False) for tool in tools)


def _introduced(
    messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], roles: Collection[str]
) -> list[dict[str, Any]]:
    """`messages` with the functions in the system message, or before the first words of the user where there can be none."""
    text = functions_text(tools)
    first = messages[0] if messages else None
    if first and first["role"] in ("system", "developer") and first["role"] in roles:
        own = first["content"].rstrip()
        if own.startswith(FUNCTIONS.rstrip(" -\n")):  # the row has the sentence already
            return [{**first, "content": f"{own}\n{text}"}, *messages[1:]]
        if FUNCTIONS.startswith(own.rstrip(".")):  # "You are a helpful assistant.", which the sentence says as well
            own = ""
        return [{**first, "content": f"{own}\n\n{FUNCTIONS}{text}" if own else FUNCTIONS + text}, *messages[1:]]
    if "system" not in roles:
        for index, message in enumerate(messages):
            if message["role"] == "user":
                changed = {**message, "content": f"{FUNCTIONS}{text}\n\n{message['content']}"}
                return [*messages[:index], changed, *messages[index + 1 :]]
    return [{"role": "system", "content": FUNCTIONS + text}, *messages]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in message.items() if value is not None}
    if out.get("tool_calls") == []:
        del out["tool_calls"]
    out.setdefault("content", "")
    return out


def _identify(messages: list[dict[str, Any]]) -> None:
    """Gives every call and its result an id of nine letters and digits, in place: kept where it is one, else made of what is said."""
    waiting: list[str] = []
    known: dict[str, str] = {}
    for number, message in enumerate(messages):
        if message.get("tool_calls"):
            waiting = []
            calls = []
            for index, call in enumerate(message["tool_calls"]):
                given = str(call.get("id") or "")
                seed = given or json.dumps([number, index, call.get("function")], sort_keys=True, default=str)
                known[given or seed] = made = given if _fits(given) else _digest(seed)
                calls.append({**call, "id": made})
                waiting.append(made)
            message["tool_calls"] = calls
        elif message["role"] == "tool":
            given = str(message.get("tool_call_id") or "")
            named = known.get(given)
            message["tool_call_id"] = named or (waiting[0] if waiting else _digest(given or str(number)))
            if message["tool_call_id"] in waiting:
                waiting.remove(message["tool_call_id"])


def _fits(text: str) -> bool:
    return len(text) == ID_LENGTH and text.isascii() and text.isalnum()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()[:ID_LENGTH]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
