"""Glaive function calling as published: `{"system": "SYSTEM: ...functions...", "chat": "USER: ...\\n\\n\\nASSISTANT: ... <|endoftext|>"}`.

Source: the dataset cards of glaive-function-calling (one column `sample` with all the text) and glaive-function-calling-v2. What
becomes of it: the functions of the system text are `tools`, and its sentence that announces them goes, as chat templates
say it in their own words; `<functioncall>` becomes real tool calls, which join the assistant's entry right before them;
`FUNCTION RESPONSE` becomes a tool's message. What the text does not tell for sure is a bad row, and so is a turn with more calls
than responses or the reverse, unless the chat ends with the calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nothing_tune.formats._calls import tools
from nothing_tune.formats._glaive_text import entries, listing, said
from nothing_tune.formats._turns import conversation, merged
from nothing_tune.formats._values import BadRow, filled, others, words

NAME = "glaive"
WANTS = "columns `system` and `chat` with text such as `USER: ...`, or a column `sample` with both"
KIND = "messages"
OVER: tuple[str, ...] = ()

_TOLD = re.compile(
    r",?\s(?:with|who has|that has) access to the following functions"
    r"(?: to help the user)?[.,;]?\s*(?:(?:use them|you can use the functions) if (?:required|needed))?\s*[-:.]*",
    re.IGNORECASE,
)
"""What announces the functions at the end of a sentence, in the words of either version."""
_FUNCTION = re.compile(r"\{\s*\"name\"\s*:\s*\"[^\"]*\"\s*,\s*\"(?:parameters|description)\"\s*:")
_CHAT = re.compile(r"(?:^|\n)[ \t]*(?=(?:USER|ASSISTANT|FUNCTION RESPONSE):)")


def matches(row: Mapping[str, Any]) -> bool:
    """Whether a column `chat` or `sample` holds text with both roles in it."""
    for name in ("chat", "sample"):
        text = row.get(name)
        if isinstance(text, str) and "USER:" in text and "ASSISTANT:" in text:
            return True
    return isinstance(row.get("system"), str) and isinstance(row.get("chat"), str)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One conversation and its tools; `BadRow` names the entry of the chat that is wrong."""
    if row.get("chat") is None and row.get("sample") is not None:
        system, chat = _halves(filled(row["sample"], "`sample`"))
    else:
        if row.get("chat") is None:
            raise BadRow("there is no `chat`")
        chat = filled(row["chat"], "`chat`")
        system = words(row["system"], "`system`") if row.get("system") is not None else ""
    text, functions = _system(system)
    turns: list[tuple[str, dict[str, Any]]] = []
    if text:
        turns.append(("the system text", {"role": "system", "content": text}))
    found = entries(chat)
    if found[0].role != "user":
        raise BadRow(f"{found[0]} stands first, where the user should")
    open_calls = ""
    for entry in found:
        message: dict[str, Any] = {"role": entry.role, "content": entry.text}
        if entry.role == "assistant":
            message["content"], calls = said(entry)
            if open_calls and message["content"]:
                raise BadRow(f"{entry} goes on without a FUNCTION RESPONSE to {open_calls}")
            if calls:
                message["tool_calls"], open_calls = calls, str(entry)
        else:
            open_calls = ""
        turns.append((f"entry {entry.number}", message))
    whole = merged(turns)
    out = {"messages": conversation(whole), **others(row, {"system", "chat", "sample"})}
    _answered(whole)
    if functions:
        out["tools"] = functions
    return [out]


def _answered(turns: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuses a turn whose calls and the responses right after it are not as many; calls that end the chat wait for theirs."""
    for number, (label, message) in enumerate(turns, 1):
        calls = len(message.get("tool_calls", ()))
        if not calls or number == len(turns):
            continue
        end = number
        while end < len(turns) and turns[end][1]["role"] == "tool":
            end += 1
        responses = end - number
        if calls != responses:
            raise BadRow(
                f"{label} ({message['role']}): {_count(calls, 'call')} {'is' if calls == 1 else 'are'} followed by "
                f"{_count(responses, 'function response')}"
            )


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number < 2 else 's'}"


def _halves(sample: str) -> tuple[str, str]:
    """The system text and the chat of the one column of version 1."""
    found = _CHAT.search(sample)
    if found is None:
        raise BadRow("`sample` has no line that starts with USER:")
    return sample[: found.start()], sample[found.end() :]


def _system(text: str) -> tuple[str, list[dict[str, Any]]]:
    """What a system text says besides its functions, and these as tools."""
    text = text.strip()
    if text.startswith("SYSTEM:"):
        text = text[len("SYSTEM:") :].strip()
    told = _TOLD.search(text)
    if told is None:
        if _FUNCTION.search(text):
            raise BadRow("the system text holds functions, but does not announce them in the words that Glaive has")
        return text, []
    functions, after = listing(text[told.end() :])
    if not functions:
        raise BadRow("the system text announces functions, but lists none that are JSON")
    before = text[: told.start()].strip()
    parts = [f"{before}." if before else "", after.strip()]
    return "\n\n".join(part for part in parts if part), tools(functions, "the functions of the system text")
