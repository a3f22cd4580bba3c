"""Laws: what is written in another form and read back is what it was."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune import formats
from tests.formats.conversions import assistant, call, function, said, system, tool, user

Row = dict[str, Any]

LETTERS = st.characters(exclude_categories=("Cs",))
TEXT = st.text(LETTERS, min_size=1, max_size=20).filter(str.strip)
NAME = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(LETTERS, max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=5), inner, max_size=3),
    max_leaves=5,
)
CALLS = st.lists(
    st.builds(call, NAME, st.dictionaries(st.text(LETTERS, max_size=5), VALUE, max_size=3)), min_size=1, max_size=2
)
FUNCTIONS = st.lists(st.builds(lambda name, text: function(name, description=text), NAME, TEXT), max_size=2)
PLAIN = st.builds(lambda a, b: [user(a), assistant(b)], TEXT, TEXT)
CALLED = st.builds(
    lambda a, words, calls, results, b: [
        user(a),
        assistant(words, *calls),
        *[tool(results) for _ in calls],
        assistant(b),
    ],
    TEXT,
    st.just("") | TEXT,
    CALLS,
    st.text(LETTERS, max_size=10),
    TEXT,
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Canonical rows of messages, with and without a system message, calls and tools."""
    first = [system(draw(TEXT))] if draw(st.booleans()) else []
    turns = draw(st.lists(PLAIN | CALLED, min_size=1, max_size=3))
    out: Row = {"messages": [*first, *(message for turn in turns for message in turn)], "level": draw(TEXT)}
    if tools := draw(FUNCTIONS):
        out["tools"] = tools
    return out


def as_openai(row: Row) -> Row:
    """The row as OpenAI's files have it: arguments as JSON text, no content where there are calls alone."""
    out = json.loads(json.dumps(row))
    for message in out["messages"]:
        for made in message.get("tool_calls", []):
            made["function"]["arguments"] = json.dumps(made["function"]["arguments"])
            message["content"] = message["content"] or None
    return dict(out)


def as_functions(row: Row) -> Row:
    """The row in OpenAI's older form; only for messages of one call at most."""
    out = as_openai(row)
    for message in out["messages"]:
        if "tool_calls" in message:
            message["function_call"] = message.pop("tool_calls")[0]["function"]
        if message["role"] == "tool":
            message["role"] = "function"
    if "tools" in out:
        out["functions"] = [tool["function"] for tool in out.pop("tools")]
    return out


def as_sharegpt(row: Row) -> Row:
    """The row with from/value, a turn for each call, the tools as JSON text."""
    turns = []
    for message in row["messages"]:
        names = {"user": "human", "assistant": "gpt", "tool": "observation"}
        calls = message.get("tool_calls", [])
        if message["content"] or not calls:
            turns += said((names.get(message["role"], message["role"]), message["content"]))
        turns += said(*(("function_call", json.dumps(made["function"])) for made in calls))
    out = {**row, "conversations": turns}
    del out["messages"]
    return {**out, "tools": json.dumps(out["tools"])} if "tools" in out else out


@settings(max_examples=40, deadline=None)
@given(rows())
def test_forms_are_read_back(row: Row) -> None:
    assert formats.find("messages").convert(row, {}) == [row]
    assert formats.check("messages", row) is None
    openai = as_openai(row)
    assert formats.find("openai").convert(openai, {}) == [row]
    assert formats.find("sharegpt").convert(as_sharegpt(row), {}) == [row]
    assert formats.detect([as_sharegpt(row)]) is formats.find("sharegpt")
    calls = [len(message.get("tool_calls", [])) for message in row["messages"]]
    assert formats.detect([openai]) is formats.find("openai" if any(calls) else "messages")
    if max(calls) <= 1:
        assert formats.find("openai").convert(as_functions(row), {}) == [row]


@settings(max_examples=40, deadline=None)
@given(rows())
def test_conversion_is_idempotent_and_survives_a_file(row: Row) -> None:
    """Canonical rows, written as a line of JSON or with a table's nulls, are read as they were."""
    read = formats.find("messages").convert
    assert read(json.loads(json.dumps(row)), {}) == [row]
    keys = {key for message in row["messages"] for key in message}
    table = [{key: message.get(key) for key in keys} for message in row["messages"]]
    assert read({**row, "messages": table, "tools": row.get("tools")}, {}) == [row]
    assert read({**row, "messages": json.dumps(row["messages"]), "tools": json.dumps(row.get("tools", []))}, {}) == [
        row
    ]


ARGUMENTS = st.dictionaries(st.text(LETTERS, max_size=5), VALUE, max_size=3)
MARK = ("USER:", "ASSISTANT:", "FUNCTION RESPONSE:", "<|endoftext|>", "<functioncall>")
SPOKEN = TEXT.map(str.strip).filter(lambda text: "\r" not in text and not any(mark in text for mark in MARK))


@settings(max_examples=50, deadline=None)
@given(SPOKEN, st.just("") | SPOKEN, NAME, ARGUMENTS, SPOKEN, SPOKEN, st.booleans(), st.booleans())
def test_glaive_is_read_back(
    asked: str, words: str, name: str, arguments: Row, result: str, answer: str, ended: bool, single: bool
) -> None:
    """Any text and any arguments, in single quotes without escapes or as an object, with and without end marks."""
    written = json.dumps(arguments, ensure_ascii=False)
    made = f'<functioncall> {{"name": "{name}", "arguments": ' + (f"'{written}'" if single else written) + "}"
    end = " <|endoftext|>" if ended else ""
    chat = "\n\n\n".join(
        [
            f"USER: {asked}",
            f"ASSISTANT: {words} {made}{end}",
            f"FUNCTION RESPONSE: {result}",
            f"ASSISTANT: {answer}{end}",
        ]
    )
    (row,) = formats.find("glaive").convert({"chat": chat}, {})
    assert row["messages"] == [user(asked), assistant(words, call(name, arguments)), tool(result), assistant(answer)]
