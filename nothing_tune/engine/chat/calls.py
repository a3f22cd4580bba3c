"""Tool calls in what a model has said: found by the tokenizer's own response template, or in the usual ways to write them.

<tool_call>{"name": ..., "arguments": {...}}</tool_call>        Hermes, Qwen, the model that ships
[TOOL_CALLS][{"name": ..., "arguments": {...}}]                 Mistral
<|python_tag|>{"name": ..., "parameters": {...}}, or bare       Llama 3
<functioncall> {"name": ..., "arguments": '{...}'}              Glaive, and `tool_text`
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

_MARKS = re.compile(r"<tool_call>|\[TOOL_CALLS\]|<\|python_tag\|>|<functioncall>")
_END = re.compile(r"\s*(?:</tool_call>|<\|/?[a-z_]+\|>|</s>)?\s*[;,]?\s*")
_QUOTED = re.compile(r"""("arguments"\s*:\s*)'((?:[^'\\]|\\.|'(?!\s*\}))*)'(\s*\})""", re.DOTALL)


def found(
    text: str, tools: Sequence[Any] | None, tokenizer: Any = None, raw: str = ""
) -> tuple[str, list[dict[str, Any]]]:
    """`(words, calls)` of an answer: what it says beside its calls, and the calls as `{"name", "arguments": {...}}`.

    Args:
        text: The answer without special tokens; returned as it is where no call can be read.
        tools: The functions that were given; a bare JSON object is a call only where it names one of them.
        tokenizer: Its own way to read answers counts first, where it has one.
        raw: The answer with its special tokens, without the one that ended it.
    """
    if tokenizer is not None and getattr(tokenizer, "response_template", None):
        with contextlib.suppress(Exception):  # a template that cannot read this answer
            parsed = tokenizer.parse_response(raw or text)
            calls = [c for c in map(_call, parsed.get("tool_calls") or []) if c]
            if calls:
                return str(parsed.get("content") or "").strip(), calls
    for said in (text, raw):
        mark = _MARKS.search(said)
        if mark:
            calls = _read(said[mark.start() :])
            if calls:
                return said[: mark.start()].strip(), calls
    names = {str((tool.get("function") or tool).get("name")) for tool in tools or () if isinstance(tool, dict)}
    if names and text.lstrip().startswith(("{", "[")):
        calls = _read(text.strip())
        if calls and all(call["name"] in names for call in calls):
            return "", calls
    return text, []


def _read(text: str) -> list[dict[str, Any]]:
    """The calls that `text` consists of; empty where anything else is among them."""
    calls: list[dict[str, Any]] = []
    text = _QUOTED.sub(lambda m: m[1] + json.dumps(m[2].replace("\\'", "'")) + m[3], text)
    while text.strip():
        mark = _MARKS.match(text.lstrip())
        body = text.lstrip()[mark.end() :].lstrip() if mark else text.lstrip()
        try:
            value, end = json.JSONDecoder().raw_decode(body)
        except ValueError:
            return []
        here = [_call(one) for one in (value if isinstance(value, list) else [value])]
        if not here or None in here:
            return []
        calls += [call for call in here if call]
        rest = body[end:]
        close = _END.match(rest)
        text = rest[close.end() :] if close else rest
    return calls


def _call(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    body: dict[str, Any] = inner if isinstance(inner, dict) else value
    arguments = body.get("arguments", body.get("parameters", {}))
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    if not isinstance(body.get("name"), str) or not isinstance(arguments, dict):
        return None
    return {"name": body["name"], "arguments": arguments}
