# ruff: noqa: E501
"""Tools and tool calls as text: pairs of rows, as given and as written."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from nothing_tune.engine.chat_templates import Choice
from nothing_tune.engine.tool_text import FUNCTIONS, as_text, rendered_by

LOOK = {"name": "look", "description": "Looks «quì».", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": LOOK}]
TWO = [*TOOLS, {"type": "function", "function": {"name": "ring"}}]
ASK = {"role": "user", "content": "Where?"}
END = {"role": "assistant", "content": "There."}
LISTED = FUNCTIONS + json.dumps(LOOK, indent=4, ensure_ascii=False)


def call(*arguments: Any, **more: Any) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": "look", "arguments": a}} for a in arguments]
    return {"role": "assistant", "tool_calls": calls, **more}


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


SYSTEM, KEPT = ("system",), ("system", "tool")
PAIRS: dict[str, tuple[tuple[str, ...], list[dict[str, Any]], Any, list[dict[str, Any]]]] = {
    "functions alone": (SYSTEM, [ASK, END], TOOLS, [said("system", LISTED), ASK, END]),
    "behind the row's own system message": (
        SYSTEM, [said("system", "Be brief.\n"), ASK, END], TOOLS, [said("system", f"Be brief.\n\n{LISTED}"), ASK, END],
    ),
    "an empty system message": (SYSTEM, [said("system", " "), ASK, END], TOOLS, [said("system", LISTED), ASK, END]),
    "a system message that says it already": (
        SYSTEM, [said("system", FUNCTIONS), ASK, END], TOOLS, [said("system", LISTED), ASK, END],
    ),
    "a system message that the sentence says as well": (
        SYSTEM, [said("system", "You are a helpful assistant."), ASK, END], TOOLS, [said("system", LISTED), ASK, END],
    ),
    "before the user's words where there is no system message": (
        (), [ASK, END, ASK], TOOLS, [said("user", f"{LISTED}\n\nWhere?"), END, ASK],
    ),
    "two functions": (
        SYSTEM, [ASK, END], TWO, [said("system", f'{LISTED}\n\n{{\n    "name": "ring"\n}}'), ASK, END],
    ),
    "a call": (SYSTEM, [ASK, call({"at": "Città"})], None, [ASK, said("assistant", '<functioncall> {"name": "look", "arguments": {"at": "Città"}}')]),
    "a call without arguments": (SYSTEM, [call({})], None, [said("assistant", '<functioncall> {"name": "look", "arguments": {}}')]),
    "words before a call": (
        SYSTEM, [call({"n": 1.5}, content="Wait.")], None, [said("assistant", 'Wait.\n<functioncall> {"name": "look", "arguments": {"n": 1.5}}')],
    ),
    "two calls": (
        SYSTEM, [call({"n": 1}, {"n": [2, None, True]})], None,
        [said("assistant", '<functioncall> {"name": "look", "arguments": {"n": 1}}\n<functioncall> {"name": "look", "arguments": {"n": [2, null, true]}}')],
    ),
    "quotes, braces and lines": (
        SYSTEM, [call({"c": "it's \"{x}\"\n"})], None, [said("assistant", '<functioncall> {"name": "look", "arguments": {"c": "it\'s \\"{x}\\"\\n"}}')],
    ),
    "arguments as JSON text": (SYSTEM, [call('{"n": 1}')], None, [said("assistant", '<functioncall> {"name": "look", "arguments": {"n": 1}}')]),
    "a result stays": (KEPT, [result("5", tool_call_id="x", name="look")], None, [said("tool", "5", name="look")]),
    "a result becomes the user's": (SYSTEM, [result('{"n": 1}', tool_call_id="x")], None, [said("user", 'FUNCTION RESPONSE: {"n": 1}')]),
    "results together": (
        SYSTEM, [call({}, {}), result("1"), result("2"), END, result("3")], None,
        [
            said("assistant", '<functioncall> {"name": "look", "arguments": {}}\n<functioncall> {"name": "look", "arguments": {}}'),
            said("user", "FUNCTION RESPONSE: 1\n\nFUNCTION RESPONSE: 2"), END, said("user", "FUNCTION RESPONSE: 3"),
        ],
    ),
    "a result that is no text": (SYSTEM, [result({"n": 1})], None, [said("user", 'FUNCTION RESPONSE: {"n": 1}')]),
    "weights stay": (SYSTEM, [call({}, weight=0)], None, [said("assistant", '<functioncall> {"name": "look", "arguments": {}}', weight=0)]),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str) -> None:
    roles, messages, tools, expected = PAIRS[name]
    row = {"messages": messages, "level": "A1", **({"tools": tools} if tools else {})}
    before = copy.deepcopy(row)
    assert as_text(row, roles) == {"messages": expected, "level": "A1"}
    assert row == before


def test_prompts_completions_and_plain_text() -> None:
    row = {"prompt": [ASK], "completion": [call({})], "tools": TOOLS}
    assert as_text(row) == {
        "prompt": [said("system", LISTED), ASK],
        "completion": [said("assistant", '<functioncall> {"name": "look", "arguments": {}}')],
    }
    assert as_text({"text": "a"}) == {"text": "a"}


def choice(**settings: Any) -> Choice:
    return Choice(None, None, "", **settings)


def test_what_a_template_shows_goes_to_it_as_it_is() -> None:
    messages, tools = rendered_by(choice(), [said("developer", "x"), ASK, call({"n": 1}), result("1")], TOOLS)
    assert messages == [said("developer", "x"), ASK, {**call({"n": 1}), "content": ""}, result("1")]
    assert tools == TOOLS
    assert rendered_by(choice(), [ASK, {**END, "tool_calls": []}], []) == ([ASK, END], None)
    messages, tools = rendered_by(choice(tools="text", roles=frozenset(SYSTEM)), [said("developer", "x"), ASK], TOOLS)
    assert (messages, tools) == ([said("system", f"x\n\n{LISTED}"), ASK], None)


def test_ids_are_made_where_a_template_demands_them() -> None:
    given = [call({"n": 1}, {"n": 1}), result("a"), result("b"), call({"n": 2})]
    given[3]["tool_calls"][0]["id"] = "call_0123456789abcdef"
    given.append(result("c", tool_call_id="call_0123456789abcdef"))
    given.append(call({}))
    given[5]["tool_calls"][0]["id"] = "abcDEF123"
    before = copy.deepcopy(given)
    messages, _ = rendered_by(choice(call_ids=True), given, TOOLS)
    ids = [c["id"] for m in messages for c in m.get("tool_calls", [])]
    assert all(len(i) == 9 and i.isalnum() for i in ids)
    assert len(set(ids)) == 4
    assert ids[3] == "abcDEF123"
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids[:3]
    assert messages == rendered_by(choice(call_ids=True), given, TOOLS)[0]
    assert given == before


def test_what_is_written_is_glaives_own_text() -> None:
    """Read back by the reader of Glaive's files, it is the row again."""
    from nothing_tune.formats import glaive

    messages = [
        said("system", "You are a helpful assistant."),
        ASK,
        call({"at": 'it\'s "{here}"', "n": [1, {"x": None}]}, {}, content="One moment."),
        result('{"seen": "a cat"}'),
        result("nothing"),
        END,
        ASK,
        END,
    ]
    row = {"messages": messages, "tools": TWO, "level": "A1"}
    plain = as_text(row)
    lead = {"user": "USER: ", "assistant": "ASSISTANT: "}
    chat = [
        m["content"] if m["content"].startswith("FUNCTION RESPONSE: ") else lead[m["role"]] + m["content"]
        for m in plain["messages"][1:]
    ]
    chat = [text + " <|endoftext|>" if text.startswith("ASSISTANT") else text for text in chat]
    published = {"system": "SYSTEM: " + plain["messages"][0]["content"], "chat": "\n\n\n".join(chat), "level": "A1"}
    assert glaive.matches(published)
    [back] = glaive.convert(published, {})
    assert back == row
