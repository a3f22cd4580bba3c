"""Function calls in a model's words, read by the syntax of its chat template, which is learned by rendering calls with it.

A template writes a call in one of three ways: a JSON object with name and arguments behind a mark (`<tool_call>{...}`), a name with a
JSON object of arguments behind it, or a name with one mark for each parameter. Marks are taken from the rendered text; a syntax that
does not read back what the template itself wrote is not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nothing_tune.engine import template_probes, tool_text
from nothing_tune.engine.chat_templates import Choice

_NAME, _OTHER = "nameofprobe", "otherofprobe"
_FIRST = {"wordofkey": "wordofvalue", "keyofother": "valueofother"}
_DECODER = json.JSONDecoder()
_ASK = {"role": "user", "content": "Ask."}
_SEPARATORS = " \t\r\n,;[]"
MARKS = ("<functioncall>", "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
"""Marks in front of calls that are plain text of the rows: Glaive's, Hermes's, Mistral's, Llama's."""


@dataclass(frozen=True)
class Call:
    """One call: the function's name and its arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Read:
    """What stands in a text.

    Attributes:
        calls: The calls that can be read, in order.
        broken: Whether a call was begun that cannot be read.
        words: What is said before the first call.
    """

    calls: tuple[Call, ...]
    broken: bool
    words: str


@dataclass(frozen=True)
class Syntax:
    """How calls are written.

    Attributes:
        kind: `object`, `arguments` or `parameters`; `unknown` where calls can only be compared as text.
        mark: What stands before a call; empty where the text begins with it.
        between: What stands between name and arguments (`arguments`), or name and first parameter (`parameters`).
        names: Keys of name and arguments (`object`).
        parameter: What opens a parameter, stands between its name and value, and closes it (`parameters`).
    """

    kind: str
    mark: str = ""
    between: str = ""
    names: tuple[str, str] = ("name", "arguments")
    parameter: tuple[str, str, str] = ("", "", "")

    def read(self, text: str) -> Read:
        """The calls in `text`."""
        if self.kind == "unknown":
            return Read((), False, text)
        calls, broken, first, at = [], False, len(text), 0
        while (begin := self._begin(text, at)) >= 0:
            first = min(first, begin)
            found, at = getattr(self, f"_{self.kind}")(text, begin + len(self.mark))
            calls += found
            broken |= not found
            if not self.mark and not found:
                first = len(text) if not calls else first
                break
        if not self.mark and not calls:
            broken = text.lstrip().startswith("{") and f'"{self.names[0]}"' in text
        return Read(tuple(calls), broken, text[:first].strip())

    def _begin(self, text: str, at: int) -> int:
        if self.mark:
            return text.find(self.mark, at)
        rest = text[at:].lstrip(_SEPARATORS)
        return len(text) - len(rest) if rest.startswith("{") else -1

    def _object(self, text: str, at: int) -> tuple[list[Call], int]:
        """Objects that follow one another from `at` on: one, or a list of them."""
        out: list[Call] = []
        while True:
            place = at + len(text[at:]) - len(text[at:].lstrip(_SEPARATORS))
            value, end = _json(text, place)
            call = _call(value, self.names) if isinstance(value, dict) else None
            if call is None:
                return out, max(place, at)
            out.append(call)
            at = end
            if "[" not in self.mark and text[at:].lstrip()[:1] not in (",", ";"):
                return out, at

    def _arguments(self, text: str, at: int) -> tuple[list[Call], int]:
        core = self.between.strip()
        head = text[at:].find(core) if core else -1
        brace = text.find("{", at + max(head, 0) + len(core))
        if brace < 0 or (core and head < 0):
            return [], at
        name = text[at : at + head] if core else text[at:brace]
        value, end = _json(text, brace)
        if not isinstance(value, dict) or not name.strip() or "\n" in name.strip():
            return [], at
        return [Call(name.strip(), value)], end

    def _parameters(self, text: str, at: int) -> tuple[list[Call], int]:
        opens, middle, closes = self.parameter
        stop = text.find(self.mark, at)
        block = text[at : stop if stop >= 0 else len(text)]
        edge = re.search("|".join(re.escape(w) for w in (self.between, opens) if w) or r"\s", block)
        name = (block[: edge.start()] if edge else block).strip()
        if not name or not re.fullmatch(r"[^\s<>{}]+", name):
            return [], at
        pattern = rf"{re.escape(opens)}(.*?){re.escape(middle)}(.*?){re.escape(closes)}"
        pairs = re.findall(pattern, block, re.DOTALL)
        if block.count(opens) != len(pairs):
            return [], at + len(block)
        return [Call(name, {k.strip(): _typed(v) for k, v in pairs})], at + len(block)


def syntax(tokenizer: Any, template: Choice) -> Syntax:
    """How calls are written where `template` renders; for templates without calls as `tool_text` writes them."""
    if template.text is None or template.tools == "text":
        return Syntax("object", tool_text.CALL.strip())
    one = _written(tokenizer, template, [(_NAME, _FIRST)])
    if one is None:
        return Syntax("unknown")
    for found in (_as_object(one), _as_arguments(one), _as_parameters(one)):
        if found is not None and _reads_back(found, tokenizer, template):
            return found
    return Syntax("unknown")


def of_message(message: Mapping[str, Any], known: Syntax) -> tuple[str, list[Call]]:
    """What a message of a row says, and its calls: those in `tool_calls`, else those in its words."""
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
    calls = [_call(c.get("function") or c, ("name", "arguments")) for c in message.get("tool_calls") or []]
    if calls:
        return text, [c for c in calls if c is not None]
    found = read(text, known)
    return (found.words, list(found.calls)) if found.calls else (text, [])


def read(text: str, known: Syntax) -> Read:
    """The calls in words of a row or a model: by the template's syntax, else by a mark that stands in them as plain text."""
    found = known.read(text)
    if found.calls or found.broken:
        return found
    for mark in MARKS:
        if mark in text:
            return Syntax("object", mark).read(text)
    return found


def same(mine: Sequence[Call], theirs: Sequence[Call]) -> bool:
    """Whether calls are the same: names and arguments as values, in any order."""
    left = list(theirs)
    for call in mine:
        twin = next((c for c in left if c.name == call.name and equal(c.arguments, call.arguments)), None)
        if twin is None:
            return False
        left.remove(twin)
    return not left


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: numbers by value, objects in any order; true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and bool(one == other)


def _call(value: Mapping[str, Any], names: tuple[str, str]) -> Call | None:
    inner = value.get("function") if isinstance(value.get("function"), dict) else value
    assert isinstance(inner, Mapping)
    name = inner.get(names[0], inner.get("name"))
    arguments = next((inner[k] for k in (names[1], "arguments", "parameters") if k in inner), None)
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    arguments = {} if arguments is None else arguments
    return Call(name, arguments) if isinstance(name, str) and name and isinstance(arguments, dict) else None


def _json(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at


def _typed(text: str) -> Any:
    """A parameter's value: JSON where it is, else text without its line breaks at the ends."""
    text = text.strip("\r\n")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _written(tokenizer: Any, template: Choice, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    """What the template writes for an answer that consists of `calls`; None where it refuses."""
    made = [
        {"type": "function", "id": f"abcDEF12{i}", "function": {"name": name, "arguments": dict(arguments)}}
        for i, (name, arguments) in enumerate(calls)
    ]
    said = [_ASK, {"role": "assistant", "content": "", "tool_calls": made}]
    names = dict(calls)
    tools = [
        {"type": "function", "function": {"name": n, "description": "A probe.", "parameters": {"type": "object", "properties": {}}}}
        for n in names
    ]  # fmt: skip
    try:
        whole = template_probes.rendered(tokenizer, str(template.text), said, tools)[0]
        head = template_probes.rendered(tokenizer, str(template.text), said[:1], tools, prompt=True)[0]
    except Exception:  # a template raises whatever it likes
        return None
    if whole.startswith(head):
        return whole[len(head) :]
    same_start = len(os.path.commonprefix([whole, head]))
    return whole[same_start:]


def _reads_back(found: Syntax, tokenizer: Any, template: Choice) -> bool:
    for calls in (
        [(_NAME, _FIRST)],
        [(_NAME, {**_FIRST, "number": 7})],
        [(_NAME, _FIRST), (_OTHER, {"keyofother": "x"})],
    ):
        text = _written(tokenizer, template, calls)
        if text is None:  # a template may take one call a turn only
            continue
        got = found.read(text)
        if got.broken or not same(got.calls, [Call(n, dict(a)) for n, a in calls]):
            return False
    return True


def _as_object(text: str) -> Syntax | None:
    at = text.find(_NAME)
    for place in (m.start() for m in reversed(list(re.finditer(r"\{", text[: max(at, 0)])))):
        value, _ = _json(text, place)
        inner = value.get("function", value) if isinstance(value, dict) else None
        if not isinstance(inner, dict) or _NAME not in inner.values():
            continue
        name = next(k for k, v in inner.items() if v == _NAME)
        rest = [k for k, v in inner.items() if v == _FIRST or v == json.dumps(_FIRST)]
        if rest:
            return Syntax("object", text[:place].strip(), names=(name, rest[0]))
    return None


def _as_arguments(text: str) -> Syntax | None:
    at = text.find(_NAME)
    if at < 0:
        return None
    behind = at + len(_NAME)
    for place in (m.start() + behind for m in re.finditer(r"\{", text[behind:])):
        value, _ = _json(text, place)
        if value == _FIRST:
            return Syntax("arguments", text[:at].strip(), text[behind:place])
    return None


def _as_parameters(text: str) -> Syntax | None:
    (key, value), (key2, value2) = _FIRST.items()
    found = re.search(rf"(.*?){_NAME}(.*?){key}(.*?){value}(.*?){key2}(.*?){value2}(.*)", text, re.DOTALL)
    if not found:
        return None
    mark, head, middle, between, _, tail = found.groups()
    opens = os.path.commonprefix([head[::-1], between[::-1]])[::-1]
    closes = between[: len(between) - len(opens)]
    if not opens.strip() or not closes.strip() or not tail.startswith(closes.rstrip()):
        return None
    return Syntax(
        "parameters", mark.strip(), head[: len(head) - len(opens)].strip(), parameter=(opens.strip(), middle.strip(), closes.strip())
    )  # fmt: skip
