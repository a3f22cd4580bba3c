"""Messages in the one form that chat templates read, and the rules that every conversation keeps.

Roles are system, developer, user, assistant and tool. A system or developer message is only the first; a tool's message
follows an assistant message with tool calls, or another tool's. What real data has and templates take is let through:
an assistant who speaks first or twice, a last word of the user's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nothing_tune.formats._calls import calls
from nothing_tune.formats._values import BadRow, kind, plain, shortened, words

ROLES = ("assistant", "developer", "system", "tool", "user")
FIRST = frozenset({"system", "developer"})
FILLED = frozenset({"assistant", "user"})
"""Roles whose messages must say something."""


def conversation(turns: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Clean messages from pairs of a label ("message 2", as errors name it) and a raw message, in order.

    Raises:
        BadRow: A message is not one, or stands where it cannot; there is none at all; none is to be learned.
    """
    out: list[dict[str, Any]] = []
    for label, raw in turns:
        message = cleaned(raw, label)
        ordered(out, message, label)
        out.append(message)
    learned(out)
    return out


def numbered(value: Sequence[Any], label: str = "message") -> list[tuple[str, Any]]:
    """The pairs that `conversation` takes: `message 1`, `message 2`, ..."""
    return [(f"{label} {n}", entry) for n, entry in enumerate(value, 1)]


def cleaned(raw: Any, label: str) -> dict[str, Any]:
    """One message with `role` and `content` (text; empty where tool calls say all) and its other keys that are not null."""
    if not isinstance(raw, Mapping):
        raise BadRow(f"{label} is {kind(raw)}, not an object with `role` and `content`")
    role = raw.get("role")
    if role is None:
        raise BadRow(f"{label} has no `role`")
    if not isinstance(role, str):
        raise BadRow(f"`role` of {label} is {kind(role)}, not text")
    if role not in ROLES:
        raise BadRow(f"{label} has the role {shortened(role)}, which is none of {', '.join(ROLES)}")
    content = raw.get("content")
    if len(raw) == 2 and isinstance(content, str) and content.isascii() and content.strip():  # nearly all there are
        return {"role": role, "content": content}
    label = f"{label} ({role})"
    message: dict[str, Any] = {"role": role, "content": ""}
    for key, value in raw.items():
        if value is None or key in ("role", "content", "tool_calls"):
            continue
        if key == "function_call":
            raise BadRow(f"{label} has a `function_call`, which only data.format=openai reads")
        message[words(key, f"a name in {label}")] = plain(value, f"`{key}` of {label}")
    if "weight" in message:
        message["weight"] = weighed(message["weight"], role, label)
    for key in ("name", "tool_call_id", "reasoning_content", "thinking"):
        if key in message:
            words(message[key], f"`{key}` of {label}")
    if raw.get("tool_calls") not in (None, []):
        if role != "assistant":
            raise BadRow(f"{label} has `tool_calls`, which only the assistant makes")
        if made := calls(raw["tool_calls"], label):
            message["tool_calls"] = made
    if content is not None:
        message["content"] = joined(content, label)
    elif "tool_calls" not in message:
        raise BadRow(f"{label} has no `content`")
    if role in FILLED and "tool_calls" not in message and not message["content"].strip():
        raise BadRow(f"{label} is empty")
    return message


def joined(content: Any, label: str) -> str:
    """The text of `content`: itself, or that of its parts {"type": "text", "text": ...} with nothing between them."""
    if isinstance(content, str):
        return words(content, label)
    if not isinstance(content, list | tuple):
        raise BadRow(f"`content` of {label} is {kind(content)}, not text")
    texts = []
    for number, part in enumerate(content, 1):
        place = f"part {number} of {label}"
        if not isinstance(part, Mapping):
            raise BadRow(f"{place} is {kind(part)}, not an object with `type` and `text`")
        sort = part.get("type")
        if sort != "text":
            if not isinstance(sort, str):
                raise BadRow(f"{place} has no `type`")
            raise BadRow(
                f"{place} is of the type {shortened(sort)}: images, sound and files are not supported, only text"
            )
        texts.append(words(part.get("text"), f"`text` of {place}"))
    return "".join(texts)


def weighed(weight: Any, role: str, label: str) -> int:
    """The `weight` of the assistant's message, 0 or 1; `BadRow` where it is neither, or not the assistant's."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        raise BadRow(f"`weight` of {label} is neither 0 nor 1")
    if role != "assistant":
        raise BadRow(f"{label} has a `weight`, which only the assistant's messages take")
    return int(weight)


def ordered(before: Sequence[Mapping[str, Any]], message: Mapping[str, Any], label: str) -> None:
    """Refuses a message that cannot stand after those `before` it."""
    role = message["role"]
    if role in FIRST and before:
        raise BadRow(f"{label} ({role}) is not the first message, where templates want it")
    if role == "tool":
        last = before[-1] if before else {}
        if last.get("role") != "tool" and not last.get("tool_calls"):
            raise BadRow(f"{label} (tool) answers no tool call: the message before it makes none")


def learned(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a conversation in which no message is learned."""
    answers = [m for m in messages if m["role"] == "assistant"]
    if not messages:
        raise BadRow("the conversation has no message")
    if not answers:
        raise BadRow("no message is the assistant's, so there is nothing to learn")
    if all(m.get("weight") == 0 for m in answers):
        raise BadRow("every message of the assistant has weight 0, so there is nothing to learn")


def merged(messages: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Labelled messages in which calls that stand in a turn of their own join the assistant's turn right before them.

    Forms that give every call its own entry (ShareGPT's `function_call`, Glaive's) mean one turn: what the assistant
    says, then its calls. Two turns of mere text stay two.
    """
    out: list[tuple[str, dict[str, Any]]] = []
    for label, message in messages:
        last = out[-1][1] if out else {}
        alone = message.get("tool_calls") and not message.get("content")
        if alone and message.get("role") == "assistant" == last.get("role"):
            last["tool_calls"] = [*last.get("tool_calls", []), *message["tool_calls"]]
            continue
        out.append((label, dict(message)))
    return out
