"""Reads the text that Glaive writes: entries of a chat, calls with single-quoted arguments, the listing of functions.

Entries are `USER: `, `ASSISTANT: ` and `FUNCTION RESPONSE: `, with empty lines between them (version 2: two; version 1: none) and
`<|endoftext|>` after what the assistant says. Role words elsewhere are text, unless they could as well be the start of an
entry: then the row is bad.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from nothing_tune.formats._calls import call
from nothing_tune.formats._values import MAX_DEPTH, BadRow, kind, shortened

END = "<|endoftext|>"
CALL = "<functioncall>"
MARKERS = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}

_MARKER = r"(USER|ASSISTANT|FUNCTION RESPONSE):"
_START = re.compile(rf"\s*{_MARKER}")
_LINE_START = re.compile(rf"\n[ \t]*{_MARKER}")
_FIND = re.compile(_MARKER)
_ANYWHERE = re.compile(rf"\s{_MARKER}")
_CLOSING = re.compile(r"'(?=\s*[,}])")
_LENIENT = json.JSONDecoder(strict=False)
"""JSON in which texts may hold line breaks as they are."""


@dataclass(frozen=True)
class Entry:
    """One entry of a chat: its place from 1, its `role` as in messages, its text without markers."""

    number: int
    role: str
    text: str

    def __str__(self) -> str:
        return f"entry {self.number} ({self.role})"


def entries(chat: str) -> list[Entry]:
    """The entries of `chat` in order, at least one; `BadRow` where the text does not tell where one starts or ends."""
    chat = chat.replace("\r\n", "\n").strip()
    if not _START.match(chat):
        raise BadRow("the chat does not start with USER:, ASSISTANT: or FUNCTION RESPONSE:")
    starts = list(_starts(chat))
    most = min(max((lines for _, lines, _ in starts), default=0), 3)
    edges = sorted({0, len(chat)} | {at for at, lines, sure in starts if sure or (most and lines >= most)})
    out = [_entry(chat[a:b], number) for number, (a, b) in enumerate(pairwise(edges), 1)]
    open_blocks = [entry for entry in out if entry.text.count("```") % 2]
    if len(open_blocks) > 1:
        raise BadRow(
            f"{open_blocks[0]} opens a code block that {open_blocks[1]} closes, so it cannot be told where it ends"
        )
    return out


def _starts(chat: str) -> Iterator[tuple[int, int, bool]]:
    """Where role words stand: their position, the line breaks right before them, and whether an entry ends there for sure.

    It does after `<|endoftext|>`, and where a FUNCTION RESPONSE follows a brace: it can only answer the call before it.
    """
    for found in _FIND.finditer(chat):
        at = before = found.start()
        while before and chat[before - 1].isspace():
            before -= 1
        answers = before < at and chat[before - 1 : before] == "}" and found[1] == "FUNCTION RESPONSE"
        if before:
            yield at, chat.count("\n", before, at), answers or chat.endswith(END, 0, before)


def _entry(raw: str, number: int) -> Entry:
    found = _START.match(raw)
    if found is None:  # a cut is only made before a marker
        raise BadRow(f"entry {number} has no role")
    text = raw[found.end() :].strip()
    ended = text.endswith(END)
    while text.endswith(END):
        text = text[: -len(END)].rstrip()
    entry = Entry(number, MARKERS[found[1]], text)
    if END in text:
        raise BadRow(f"{entry} goes on after {END}")
    _told(entry, ended)
    return entry


def _told(entry: Entry, ended: bool) -> None:
    """Refuses an entry with a role word in its text that could as well start the next one; `ended`: its end is marked.

    Words in a call, in a function's JSON and in closed code blocks are text, and so are words inside a line, except
    ASSISTANT: and, where no end is marked, all of them; in what the user says, USER: inside a line is text.
    """
    text = entry.text.split(CALL, 1)[0] if entry.role == "assistant" else entry.text
    if entry.role == "tool" and _is_json(text):
        return
    outside = "".join(text.split("```")[::2]) if text.count("```") % 2 == 0 else text
    if entry.role == "user":
        words = [found[1] for found in _ANYWHERE.finditer(text) if found[1] != "USER"]
    else:
        words = [found[1] for found in _ANYWHERE.finditer(outside) if found[1] == "ASSISTANT" or not ended]
    words += [found[1] for found in _LINE_START.finditer("\n" + outside)]
    if words:
        raise BadRow(f"{entry} holds the words {words[0]}:, so it cannot be told where it ends")


def _is_json(text: str) -> bool:
    try:
        _LENIENT.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def said(entry: Entry) -> tuple[str, list[dict[str, Any]]]:
    """What an assistant's entry says, and the calls that follow it."""
    text, calls = entry.text, list[dict[str, Any]]()
    start = at = text.find(CALL)
    if start < 0:
        return text, []
    while at < len(text):
        if not text.startswith(CALL, at):
            raise BadRow(f"{entry} goes on with {shortened(text[at:], 24)} after its call")
        place = f"{entry}, call {len(calls) + 1}"
        value, at = _object(text, _blank(text, at + len(CALL)), place)
        calls.append(call(value, place))
        at = _blank(text, at)
    return text[:start].strip(), calls


def _blank(text: str, at: int) -> int:
    """The position of the next character at or after `at` that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _object(text: str, at: int, place: str) -> tuple[dict[str, Any], int]:
    """The JSON object at `text[at:]`, whose texts may stand in single quotes, and the position after it."""
    if text[at : at + 1] != "{":
        raise BadRow(f"{place} is no object {{...}}")
    out: dict[str, Any] = {}
    at = _blank(text, at + 1)
    while text[at : at + 1] != "}":
        name, at = _value(text, at, place)
        if not isinstance(name, str):
            raise BadRow(f"{place} is not JSON (a name is {kind(name)})")
        at = _blank(text, at)
        if text[at : at + 1] != ":":
            raise BadRow(f"{place} is not JSON (no colon after {shortened(name)})")
        at = _blank(text, at + 1)
        if text[at : at + 1] == "'":
            out[name], at = _quoted(text, at, f"`{name}` of {place}")
        else:
            out[name], at = _value(text, at, place)
        at = _blank(text, at)
        if text[at : at + 1] == ",":
            at = _blank(text, at + 1)
        elif text[at : at + 1] != "}":
            raise BadRow(f"{place} is not JSON (neither a comma nor a brace after {shortened(name)})")
    return out, at + 1


def _value(text: str, at: int, place: str) -> tuple[Any, int]:
    try:
        return _LENIENT.raw_decode(text, at)
    except RecursionError:
        raise BadRow(f"{place} is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError:
        raise BadRow(f"{place} is not JSON") from None


def _quoted(text: str, at: int, place: str) -> tuple[dict[str, Any], int]:
    """What stands in single quotes at `text[at:]`, JSON of an object, and the position after the closing quote.

    Apostrophes inside need no escape: the quote that closes is the one at which the JSON is complete.
    """
    start = _blank(text, at + 1)
    if text[start : start + 1] == "'":
        return {}, start + 1
    try:
        value, end = _LENIENT.raw_decode(text, start)
        end = _blank(text, end)
        if text[end : end + 1] == "'":
            return _arguments(value, place), end + 1
    except (ValueError, RecursionError):
        pass
    for found in islice(_CLOSING.finditer(text, start), 50):  # with escapes that are Python's, not JSON's
        inside = text[start : found.start()]
        for unescaped in (inside.replace("\\'", "'"), inside.replace('\\"', '"')):
            try:
                value = json.loads(unescaped, strict=False)
            except (ValueError, RecursionError):
                continue
            return _arguments(value, place), found.end()
    raise BadRow(f"{place} is not JSON")


def _arguments(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRow(f"{place} is JSON of {kind(value)}, not an object")
    return dict(value)


def listing(text: str) -> tuple[list[Any], str]:
    """The functions that `text` starts with, each JSON or a list of them, and the text after them."""
    functions: list[Any] = []
    at = end = _blank(text, 0)
    while text[at : at + 1] in ("{", "["):
        try:
            value, end = _LENIENT.raw_decode(text, at)
        except (ValueError, RecursionError):
            raise BadRow(f"function {len(functions) + 1} in the system text is not JSON") from None
        functions += value if isinstance(value, list) else [value]
        at = _blank(text, end)
        if text[at : at + 1] == ",":
            at = _blank(text, at + 1)
    return functions, text[end:]
