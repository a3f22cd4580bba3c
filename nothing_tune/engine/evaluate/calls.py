"""Function calls in a model's words, read by the syntax of its chat template, which is learned by rendering calls with it.

Templates write calls in five ways. Marks are taken from the rendered text, and a syntax that does not read back what the template
itself wrote is not used.

    object       a mark, then a JSON object with name and arguments            <tool_call>{"name": "f", "arguments": {"a": 1}}
    arguments    a mark, the name, then a JSON object of arguments             to=functions.f<|message|>{"a": 1}
    parameters   a mark, the name, then one mark for each parameter            <function=f><parameter=a>1</parameter>
    braces       a mark, the name, then an object with bare keys               call:f{a:<|"|>x<|"|>}
    python       a mark, then calls as Python writes them                      [f(a=1)]
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nothing_tune.engine import template_probes, tool_text
from nothing_tune.engine.chat_templates import Choice

_NAME, _OTHER = "nameofprobe", "otherofprobe"
_FIRST = {"wordofkey": "wordofvalue", "keyofother": "valueofother"}
_DECODER = json.JSONDecoder()
_ASK = {"role": "user", "content": "Ask."}
_SEPARATORS = " \t\r\n,;[]"
_BARE = re.compile(r'([{,]\s*)([^\s{}\[\],:"]+)\s*:')
"""A key without quotes."""
_WORDS = {"None": "null", "True": "true", "False": "false"}
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
        kind: See above; `unknown` where calls can only be compared as text.
        mark: What stands before a call; empty where the text begins with it.
        between: What stands between name and arguments (`arguments`), or name and first parameter (`parameters`).
        names: Keys of name and arguments (`object`).
        parameter: What opens a parameter, stands between its name and value, and closes it (`parameters`).
        quote: What stands before and behind a text (`braces`).
        end: What stands behind the calls (`python`).
    """

    kind: str
    mark: str = ""
    between: str = ""
    names: tuple[str, str] = ("name", "arguments")
    parameter: tuple[str, str, str] = ("", "", "")
    quote: str = ""
    end: str = ""

    def read(self, text: str) -> Read:
        """The calls in `text`."""
        if self.kind == "unknown":
            return Read((), False, text)
        calls, broken, first, at = [], False, len(text), 0
        while (begun := self._begin(text, at)) is not None:
            begin, behind = begun
            first = min(first, begin)
            found, at = getattr(self, f"_{self.kind}")(text, behind)
            calls += found
            broken |= not found
            if not self.mark and not found:
                first = len(text) if not calls else first
                break
        if not self.mark and not calls:
            broken = text.lstrip().startswith("{") and f'"{self.names[0]}"' in text
        return Read(tuple(calls), broken, text[:first].strip())

    def _begin(self, text: str, at: int) -> tuple[int, int] | None:
        """Where the next call's mark begins and ends; None without one."""
        if self.mark:
            found = re.compile(_flexible(self.mark)).search(text, at)
            return found.span() if found else None
        rest = text[at:].lstrip(_SEPARATORS)
        place = len(text) - len(rest)
        return (place, place) if rest.startswith("{") else None

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
            if text[at:].lstrip()[:1] not in (",", ";"):
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
        opens, middle, closes = map(_flexible, self.parameter)
        stop = re.compile(_flexible(self.mark)).search(text, at)
        block = text[at : stop.start() if stop else len(text)]
        edge = re.search("|".join(p for p in (_flexible(self.between), opens) if p), block)
        name = (block[: edge.start()] if edge else re.split(r"[\s<>{}]", block.strip(), maxsplit=1)[0]).strip()
        if not name or not re.fullmatch(r"[^\s<>{}]+", name):
            return [], at
        pairs = re.findall(rf"{opens}(.*?){middle}(.*?){closes}", block, re.DOTALL)
        if len(re.findall(opens, block)) != len(pairs):
            return [], at + len(block)
        return [Call(name, {k.strip(): _typed(v) for k, v in pairs})], at + len(block)

    def _braces(self, text: str, at: int) -> tuple[list[Call], int]:
        brace = text.find("{", at)
        name = text[at:brace].strip()
        if brace < 0 or not name or not re.fullmatch(r"[^\s<>{}]+", name):
            return [], at
        stop = re.compile(_flexible(self.mark)).search(text, at)
        pieces = text[brace : stop.start() if stop else len(text)].split(self.quote)
        for number, piece in enumerate(pieces):
            bare = re.sub(r"\b(None|True|False)\b", lambda m: _WORDS[m[1]], piece)  # as Jinja writes them
            pieces[number] = json.dumps(piece) if number % 2 else _BARE.sub(r'\1"\2":', bare)
        value, _ = _json("".join(pieces), 0)
        return ([Call(name, value)] if isinstance(value, dict) else []), brace + 1

    def _python(self, text: str, at: int) -> tuple[list[Call], int]:
        stop = text.find(self.end, at) if self.end else -1
        stop = len(text) if stop < 0 else stop
        try:
            body = _PythonWords().visit(ast.parse(text[at:stop].strip(), mode="eval")).body
            made = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
            return [_python_call(one) for one in made], stop
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return [], stop


def syntax(tokenizer: Any, template: Choice) -> Syntax:
    """How calls are written where `template` renders; for templates without calls as `tool_text` writes them."""
    if template.text is None or template.tools == "text":
        return Syntax("object", tool_text.CALL.strip())
    one = _written(tokenizer, template, [(_NAME, _FIRST)])
    if one is None:
        return Syntax("unknown")
    plain = _written(tokenizer, template, None)
    one = one[_shared(one, plain or "") :]  # an empty thought before every answer is no mark of a call
    for found in (_as_object(one), _as_arguments(one), _as_parameters(one), _as_braces(one), _as_python(one)):
        for tried in [] if found is None else [found, replace(found, mark=found.mark.rsplit("\n", 1)[-1].strip())]:
            if _reads_back(tried, tokenizer, template):
                return tried
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


def same(mine: Sequence[Call], theirs: Sequence[Call], typed: bool = True) -> bool:
    """Whether calls are the same: names and arguments as values, in any order; without `typed` 7 and "7" are the same."""
    left = list(theirs)
    for call in mine:
        twin = next((c for c in left if c.name == call.name and _fits(c.arguments, call.arguments, typed)), None)
        if twin is None:
            return False
        left.remove(twin)
    return not left


def _fits(one: Mapping[str, Any], other: Mapping[str, Any], typed: bool) -> bool:
    if typed or one.keys() != other.keys():
        return equal(one, other)
    return all(equal(one[k], other[k]) or _spelt(one[k]) == _spelt(other[k]) for k in one)


def _spelt(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


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


def _written(tokenizer: Any, template: Choice, calls: Sequence[tuple[str, Mapping[str, Any]]] | None) -> str | None:
    """What the template writes for an answer that consists of `calls`, of a word for None; None where it refuses."""
    words = "wordofanswer" if calls is None else ""
    calls = calls or []
    made = [
        {"type": "function", "id": f"abcDEF12{i}", "function": {"name": name, "arguments": dict(arguments)}}
        for i, (name, arguments) in enumerate(calls)
    ]
    said: list[dict[str, Any]] = [
        _ASK,
        {"role": "assistant", "content": words, **({"tool_calls": made} if made else {})},
    ]
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
    return whole[_shared(whole, head) :]


def _shared(one: str, other: str) -> int:
    """Characters with which both begin."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _reads_back(found: Syntax, tokenizer: Any, template: Choice) -> bool:
    for calls in (
        [(_NAME, _FIRST)],
        [(_NAME, {**_FIRST, "number": 7})],
        [(_NAME, _FIRST), (_OTHER, {"keyofother": "x"})],
    ):
        text = _written(tokenizer, template, calls)
        if text is None or any(name not in text for name, _ in calls):  # a template may write one call a turn only
            continue
        got = found.read(text)
        if got.broken or not same(got.calls, [Call(n, dict(a)) for n, a in calls], found.kind != "parameters"):
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
            return Syntax("object", text[:place].strip().rstrip("[ \n"), names=(name, rest[0]))
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
    found = re.search(rf"(.*){_NAME}(.*?){key}(.*?){value}(.*?){key2}(.*?){value2}(.*)", text, re.DOTALL)
    if not found:
        return None
    mark, head, middle, between, _, tail = found.groups()
    opens = head[len(head) - _shared(head[::-1], between[::-1]) :]
    closes = between[: len(between) - len(opens)]
    if not opens.strip() or not closes.strip() or not tail.startswith(closes.rstrip()):
        return None
    between = head[: len(head) - len(opens)].strip()
    marks = (opens.strip(), middle.strip(), closes.strip())
    return Syntax("parameters", mark.split(_NAME)[-1].strip(), between, parameter=marks)


def _as_braces(text: str) -> Syntax | None:
    found = re.search(rf"(\S*?){_NAME}\{{.*?keyofother:(.+?)valueofother(.+?)[,}}]", text, re.DOTALL)
    if not found or found[2] != found[3]:
        return None
    return Syntax("braces", found[1], quote=found[2])


def _as_python(text: str) -> Syntax | None:
    found = re.search(rf"(.*?)\[?{_NAME}\(.*?\)\]?(.*)", text, re.DOTALL)
    if not found or not found[1].strip():
        return None
    return Syntax("python", found[1].strip(), end=(found[2].split() or [""])[0])


def _python_call(node: ast.expr) -> Call:
    """A call of Python's with values that are spelt out; `ValueError` for anything else."""
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        raise ValueError("no call with named arguments")
    return Call(ast.unparse(node.func), {str(k.arg): ast.literal_eval(k.value) for k in node.keywords})


class _PythonWords(ast.NodeTransformer):
    """JSON's words for values that Python spells otherwise."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """`true`, `false` and `null` as values; other names stay, and are no value."""
        words = {"true": True, "false": False, "null": None}
        return ast.Constant(words[node.id]) if node.id in words else node


def _flexible(mark: str) -> str:
    """A pattern for a mark whose white space may be more or less."""
    return r"\s*".join(map(re.escape, mark.split()))
