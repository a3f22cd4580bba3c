"""Rows that cannot be trained on, and the exact words that say why; whatever comes in, only `BadRow` comes out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune import formats
from nothing_tune.errors import UsageError
from tests.formats.conversions import CALLED, CONVERSIONS, PAIR, assistant, call, said, system, tool, user

ROLES = "assistant, developer, system, tool, user"
SPEAKERS = "human, user, gpt, assistant, model, system, tool, function, observation, function_call"
DEEP: Any = "x"
for _ in range(100):
    DEEP = {"a": DEEP}
CALLER = user("a")


def messages(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


def calling(*calls: Any) -> dict[str, Any]:
    """A row whose second message makes `calls`."""
    return messages(CALLER, {"role": "assistant", "content": None, "tool_calls": list(calls)})


def asking(part: Any) -> dict[str, Any]:
    """A row whose first message has one part."""
    return messages({"role": "user", "content": [part]}, assistant("b"))


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("messages", {}, "there are no `messages`"),
    ("messages", {"messages": None}, "there are no `messages`"),
    ("messages", {"messages": []}, "the conversation has no message"),
    ("messages", {"messages": "hello"}, "`messages` is not JSON (character 1)"),
    ("messages", {"messages": "[{'role': 'user'}]"}, "`messages` is not JSON (character 3)"),
    ("messages", {"messages": "3"}, "`messages` is a number, not a list"),
    ("messages", {"messages": 3}, "`messages` is a number, not a list"),
    ("messages", {"messages": True}, "`messages` is true, not a list"),
    ("messages", {"messages": {"role": "user"}}, "`messages` is an object, not a list"),
    ("messages", messages("hello"), "message 1 is text, not an object with `role` and `content`"),
    ("messages", messages("a", "b"), "message 1 is text, not an object with `role` and `content`"),
    ("messages", messages(None), "message 1 is null, not an object with `role` and `content`"),
    ("messages", messages([CALLER]), "message 1 is a list, not an object with `role` and `content`"),
    ("messages", messages({}), "message 1 has no `role`"),
    ("messages", messages({"content": "x"}), "message 1 has no `role`"),
    ("messages", messages({"role": None, "content": "x"}), "message 1 has no `role`"),
    ("messages", messages({"role": 1, "content": "x"}), "`role` of message 1 is a number, not text"),
    (
        "messages",
        messages(CALLER, {"role": "gpt", "content": "x"}),
        f"message 2 has the role 'gpt', which is none of {ROLES}",
    ),
    (
        "messages",
        messages({"role": "User", "content": "x"}),
        f"message 1 has the role 'User', which is none of {ROLES}",
    ),
    (
        "messages",
        messages({"role": "x" * 99, "content": "x"}),
        f"message 1 has the role '{'x' * 37}...', which is none of {ROLES}",
    ),
    ("messages", messages({"role": "user"}), "message 1 (user) has no `content`"),
    ("messages", messages({"role": "user", "content": None}), "message 1 (user) has no `content`"),
    ("messages", messages({"role": "system", "content": None}, *PAIR), "message 1 (system) has no `content`"),
    ("messages", messages({"role": "user", "content": 5}), "`content` of message 1 (user) is a number, not text"),
    ("messages", messages({"role": "user", "content": False}), "`content` of message 1 (user) is false, not text"),
    ("messages", messages({"role": "user", "content": {}}), "`content` of message 1 (user) is an object, not text"),
    ("messages", messages(user("")), "message 1 (user) is empty"),
    ("messages", messages(user(" \n\t")), "message 1 (user) is empty"),
    ("messages", messages({"role": "user", "content": []}), "message 1 (user) is empty"),
    ("messages", messages(CALLER, assistant("")), "message 2 (assistant) is empty"),
    ("messages", messages(CALLER, {"role": "assistant"}), "message 2 (assistant) has no `content`"),
    ("messages", messages(CALLER, assistant("", reasoning_content="r")), "message 2 (assistant) is empty"),
    ("messages", messages(CALLER), "no message is the assistant's, so there is nothing to learn"),
    ("messages", messages(system("s")), "no message is the assistant's, so there is nothing to learn"),
    (
        "messages",
        messages(CALLER, assistant("b", weight=0)),
        "every message of the assistant has weight 0, so there is nothing to learn",
    ),
    ("messages", messages(CALLER, assistant("b", weight=2)), "`weight` of message 2 (assistant) is neither 0 nor 1"),
    ("messages", messages(CALLER, assistant("b", weight=True)), "`weight` of message 2 (assistant) is neither 0 nor 1"),
    ("messages", messages(CALLER, assistant("b", weight="1")), "`weight` of message 2 (assistant) is neither 0 nor 1"),
    (
        "messages",
        messages({**CALLER, "weight": 1}, assistant("b")),
        "message 1 (user) has a `weight`, which only the assistant's messages take",
    ),
    (
        "messages",
        messages(*PAIR, system("s")),
        "message 3 (system) is not the first message, where templates want it",
    ),
    (
        "messages",
        messages(system("s"), {"role": "developer", "content": "d"}, *PAIR),
        "message 2 (developer) is not the first message, where templates want it",
    ),
    ("messages", messages(tool("1"), *PAIR), "message 1 (tool) answers no tool call: the message before it makes none"),
    ("messages", messages(*PAIR, tool("1")), "message 3 (tool) answers no tool call: the message before it makes none"),
    (
        "messages",
        messages(*CALLED[:2], user("c"), tool("1")),
        "message 4 (tool) answers no tool call: the message before it makes none",
    ),
    (
        "messages",
        messages({**CALLER, "tool_calls": [call("f", {})]}, assistant("b")),
        "message 1 (user) has `tool_calls`, which only the assistant makes",
    ),
    ("messages", messages({**CALLER, "name": 4}, assistant("b")), "`name` of message 1 (user) is a number, not text"),
    (
        "messages",
        messages(CALLER, assistant("b", thinking=["t"])),
        "`thinking` of message 2 (assistant) is a list, not text",
    ),
    ("messages", asking("a"), "part 1 of message 1 (user) is text, not an object with `type` and `text`"),
    ("messages", asking(None), "part 1 of message 1 (user) is null, not an object with `type` and `text`"),
    ("messages", asking({"text": "a"}), "part 1 of message 1 (user) has no `type`"),
    ("messages", asking({"type": "text"}), "`text` of part 1 of message 1 (user) is null, not text"),
    ("messages", asking({"type": "text", "text": 1}), "`text` of part 1 of message 1 (user) is a number, not text"),
    (
        "messages",
        asking({"type": "image_url", "image_url": {"url": "x"}}),
        "part 1 of message 1 (user) is of the type 'image_url': images, sound and files are not supported, only text",
    ),
    (
        "messages",
        messages(user("a\ud83d"), assistant("b")),
        "message 1 (user) holds half a character (\\ud83d, a lone surrogate), which is no text",
    ),
    (
        "messages",
        {**messages(*PAIR), "id": "\udc00"},
        "`id` holds half a character (\\udc00, a lone surrogate), which is no text",
    ),
    (
        "messages",
        messages(CALLER, assistant("b", extra=DEEP)),
        "`extra` of message 2 (assistant) is nested more than 64 levels deep",
    ),
    (
        "messages",
        messages(CALLER, assistant("b", seen={1, 2})),
        "`seen` of message 2 (assistant) holds a set, which JSON does not have",
    ),
    (
        "messages",
        messages(CALLER, assistant("b", function_call={"name": "f"})),
        "message 2 (assistant) has a `function_call`, which only data.format=openai reads",
    ),
    ("messages", calling("f"), "message 2 (assistant), tool call 1 is text, not an object"),
    ("messages", calling({}), "message 2 (assistant), tool call 1 has no `name`"),
    ("messages", calling({"function": "f"}), "`function` of message 2 (assistant), tool call 1 is text, not an object"),
    ("messages", calling({"function": {}}), "message 2 (assistant), tool call 1 has no `name`"),
    ("messages", calling(call("", {})), "`name` of message 2 (assistant), tool call 1 is empty"),
    (
        "messages",
        calling(call("f", {}), {"name": 7}),
        "`name` of message 2 (assistant), tool call 2 is a number, not text",
    ),
    (
        "messages",
        calling({"type": "custom", "custom": {"name": "f"}}),
        "message 2 (assistant), tool call 1 has a `type` that is not 'function'",
    ),
    ("messages", calling(call("f", {}, id=1)), "`id` of message 2 (assistant), tool call 1 is a number, not text"),
    (
        "messages",
        calling(call("f", [1])),  # type: ignore[arg-type]
        "`arguments` of message 2 (assistant), tool call 1 is a list, not an object",
    ),
    (
        "messages",
        calling(call("f", DEEP)),
        "`arguments` of message 2 (assistant), tool call 1 is nested more than 64 levels deep",
    ),
    (
        "messages",
        calling(call("f", {"x": float("nan")})),
        "`arguments` of message 2 (assistant), tool call 1 holds nan, which JSON does not have",
    ),
    (
        "messages",
        messages(CALLER, {"role": "assistant", "content": "b", "tool_calls": "f()"}),
        "`tool_calls` of message 2 (assistant) is not JSON (character 1)",
    ),
    (
        "messages",
        messages(CALLER, {"role": "assistant", "content": "b", "tool_calls": {"name": "f"}}),
        "`tool_calls` of message 2 (assistant) is an object, not a list",
    ),
    ("messages", {"messages": PAIR, "tools": "f"}, "`tools` is not JSON (character 1)"),
    ("messages", {"messages": PAIR, "tools": {"name": "f"}}, "`tools` is an object, not a list"),
    ("messages", {"messages": PAIR, "tools": [5]}, "`tools`, number 1 is a number, not an object"),
    ("messages", {"messages": PAIR, "tools": ["f"]}, "`tools`, number 1 is not JSON (character 1)"),
    ("messages", {"messages": PAIR, "tools": [{"type": "function"}]}, "`tools`, number 1 has no `name`"),
    (
        "messages",
        {"messages": PAIR, "tools": [{"type": "retrieval", "function": {"name": "f"}}]},
        "`tools`, number 1 has a `type` that is not 'function'",
    ),
    (
        "messages",
        {"messages": PAIR, "tools": [{"name": "f", "parameters": [1]}]},
        "`parameters` of `tools`, number 1 is a list, not an object",
    ),
    (
        "openai",
        calling({"type": "function", "function": {"name": "f", "arguments": '{"x": 1'}}),
        "`arguments` of message 2 (assistant), tool call 1 is not JSON (character 8)",
    ),
    (
        "openai",
        calling({"type": "function", "function": {"name": "f", "arguments": "x=1"}}),
        "`arguments` of message 2 (assistant), tool call 1 is not JSON (character 1)",
    ),
    (
        "openai",
        calling({"type": "function", "function": {"name": "f", "arguments": "[1]"}}),
        "`arguments` of message 2 (assistant), tool call 1 is JSON of a list, not an object",
    ),
    (
        "openai",
        calling({"type": "function", "function": {"name": "f", "arguments": '"{}"'}}),
        "`arguments` of message 2 (assistant), tool call 1 is JSON of text, not an object",
    ),
    (
        "openai",
        calling({"type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}),
        "`arguments` of message 2 (assistant), tool call 1 is nested more than 64 levels deep",
    ),
    (
        "openai",
        calling({"type": "function", "function": {"name": "f", "arguments": '{"x": ' + "9" * 5000 + "}"}}),
        "`arguments` of message 2 (assistant), tool call 1 holds a number that is too long",
    ),
    (
        "openai",
        messages(CALLER, {**assistant("b", call("f", {})), "function_call": {"name": "f"}}),
        "message 2 has both `tool_calls` and `function_call`",
    ),
    (
        "openai",
        messages(CALLER, {"role": "assistant", "function_call": "f"}),
        "`function_call` of message 2 is text, not an object",
    ),
    (
        "openai",
        {"messages": PAIR, "functions": [{"name": "f"}], "tools": [{"name": "g"}]},
        "`tools` and `functions` are both there, so it cannot be told which one is meant",
    ),
    ("openai", {"messages": PAIR, "functions": [{"x": 1}]}, "`functions`, number 1 has no `name`"),
    (
        "openai",
        messages(CALLER, {"role": "assistant", "content": None, "refusal": "I cannot"}),
        "message 2 (assistant) has no `content`",
    ),
    ("prompt-completion", {"completion": "b"}, "there is no `prompt`"),
    ("prompt-completion", {"prompt": "a", "completion": None}, "there is no `completion`"),
    ("prompt-completion", {"prompt": "a", "completion": ""}, "`completion` is empty"),
    ("prompt-completion", {"prompt": "a", "completion": " "}, "`completion` is empty"),
    (
        "prompt-completion",
        {"prompt": 1, "completion": "b"},
        "`prompt` is a number, neither text nor a list of messages",
    ),
    (
        "prompt-completion",
        {"prompt": "a", "completion": {"text": "b"}},
        "`completion` is an object, neither text nor a list of messages",
    ),
    (
        "prompt-completion",
        {"prompt": "a", "completion": [assistant("b")]},
        "`prompt` is text and `completion` is a list: both must be the same",
    ),
    ("prompt-completion", {"prompt": [], "completion": [assistant("b")]}, "`prompt` has no message"),
    ("prompt-completion", {"prompt": [CALLER], "completion": []}, "`completion` has no message"),
    (
        "prompt-completion",
        {"prompt": [CALLER], "completion": [assistant("")]},
        "`completion` message 1 (assistant) is empty",
    ),
    ("prompt-completion", {"prompt": [user("")], "completion": [assistant("b")]}, "`prompt` message 1 (user) is empty"),
    (
        "prompt-completion",
        {"prompt": ["a"], "completion": ["b"]},
        "`prompt` message 1 is text, not an object with `role` and `content`",
    ),
    (
        "prompt-completion",
        {"prompt": PAIR, "completion": PAIR},
        "`completion` starts with a message of the user, not the assistant's",
    ),
    (
        "prompt-completion",
        {"prompt": CALLED[:2], "completion": [tool("1")]},
        "no message is the assistant's, so there is nothing to learn",
    ),
    ("text", {}, "there is no `text`"),
    ("text", {"text": None}, "there is no `text`"),
    ("text", {"text": ""}, "`text` is empty"),
    ("text", {"text": 3}, "`text` is a number, not text"),
    ("text", {"text": ["a", "b"]}, "`text` is a list, not text"),
    ("text", {"text": "\ud800"}, "`text` holds half a character (\\ud800, a lone surrogate), which is no text"),
    ("alpaca", {"instruction": "a"}, "there is no `output`"),
    ("alpaca", {"output": "b"}, "there is no `instruction`"),
    ("alpaca", {"instruction": "a", "output": ""}, "`output` is empty"),
    ("alpaca", {"instruction": "a", "response": " "}, "`response` is empty"),
    ("alpaca", {"instruction": "a", "output": 4}, "`output` is a number, not text"),
    ("alpaca", {"instruction": "", "input": "", "output": "b"}, "`instruction` and `input` are empty"),
    ("alpaca", {"instruction": ["a"], "output": "b"}, "`instruction` is a list, not text"),
    ("alpaca", {"instruction": "a", "input": 0, "output": "b"}, "`input` is a number, not text"),
    ("alpaca", {"instruction": "a", "system": {}, "output": "b"}, "`system` is an object, not text"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "response": "c"},
        "`output` and `response` are both there, so it cannot be told which one is meant",
    ),
    ("alpaca", {"instruction": "a", "output": "b", "history": {"a": 1}}, "`history` is an object, not a list"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": ["x"]},
        "`history` pair 1 is text, not a list of an instruction and an answer",
    ),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["x", "y"], ["z"]]},
        "`history` pair 2 has 1 entry, not 2",
    ),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["x", None]]},
        "the answer of `history` pair 1 is null, not text",
    ),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["x", ""]]}, "`history` pair 1 (assistant) is empty"),
    ("sharegpt", {"id": 1}, "there are no `conversations`"),
    ("sharegpt", {"conversations": []}, "the conversation has no message"),
    ("sharegpt", {"conversations": {"from": "human"}}, "`conversations` is an object, not a list"),
    ("sharegpt", {"conversations": ["a"]}, "turn 1 is text, not an object with `from` and `value`"),
    ("sharegpt", {"conversations": [{"value": "a"}]}, "turn 1 has no `from`"),
    ("sharegpt", {"conversations": [{"from": 1, "value": "a"}]}, "`from` of turn 1 is a number, not text"),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "role": "user", "value": "a"}]},
        "`from` and `role` are both there, so it cannot be told which one is meant",
    ),
    ("sharegpt", {"conversations": [{"from": "human"}]}, "turn 1 (human) has no `value`"),
    ("sharegpt", {"conversations": [{"role": "user"}]}, "turn 1 (user) has no `content`"),
    ("sharegpt", {"conversations": said(("alien", "a"))}, f"turn 1 is from 'alien', which is none of {SPEAKERS}"),
    ("sharegpt", {"conversations": said(("human", "a"), ("gpt", ""))}, "turn 2 (assistant) is empty"),
    (
        "sharegpt",
        {"conversations": said(("human", "a"), ("gpt", 5))},
        "`value` of turn 2 (gpt) is a number, not text",
    ),
    (
        "sharegpt",
        {"conversations": said(("human", "a"))},
        "no message is the assistant's, so there is nothing to learn",
    ),
    (
        "sharegpt",
        {"conversations": said(("human", "a"), ("gpt", "b"), ("system", "s"))},
        "turn 3 (system) is not the first message, where templates want it",
    ),
    (
        "sharegpt",
        {"conversations": said(("system", "s"), ("human", "a"), ("gpt", "b")), "system": "t"},
        "turn 1 (system) is not the first message, where templates want it",
    ),
    (
        "sharegpt",
        {"conversations": said(("human", "a"), ("observation", "1"), ("gpt", "b"))},
        "turn 2 (tool) answers no tool call: the message before it makes none",
    ),
    (
        "sharegpt",
        {"conversations": said(("human", "a"), ("function_call", "f(1)"))},
        "turn 2 (function_call) is not JSON (character 1)",
    ),
    (
        "sharegpt",
        {"conversations": said(("human", "a"), ("function_call", "[]"))},
        "turn 2 (function_call) makes no call",
    ),
    (
        "sharegpt",
        {"conversations": said(("human", "a"), ("function_call", '[{"name": "f"}, 3]'))},
        "turn 2 (function_call), call 2 is a number, not an object",
    ),
    (
        "sharegpt",
        {"conversations": said(("human", "a"), ("function_call", '{"name": "f", "arguments": "x"}'))},
        "`arguments` of turn 2 (function_call) is not JSON (character 1)",
    ),
    (
        "sharegpt",
        {"conversations": PAIR, "conversation": PAIR},
        "`conversations` and `conversation` are both there, so it cannot be told which one is meant",
    ),
    ("glaive", {"system": "SYSTEM: s"}, "there is no `chat`"),
    ("glaive", {"chat": ""}, "`chat` is empty"),
    ("glaive", {"chat": 3}, "`chat` is a number, not text"),
    ("glaive", {"chat": "USER: a", "system": 3}, "`system` is a number, not text"),
    ("glaive", {"sample": ["USER: a"]}, "`sample` is a list, not text"),
    ("transcript", {"speaker": "A"}, "there is no `text`"),
    ("transcript", {"line": "x"}, "there is no `speaker`"),
    ("transcript", {"speaker": "A", "text": ""}, "`text` is empty"),
    ("transcript", {"speaker": " ", "line": "x"}, "`speaker` is empty"),
    ("transcript", {"speaker": 4, "text": "x"}, "`speaker` is a number, not text"),
    ("transcript", {"speaker": "A", "text": 4}, "`text` is a number, not text"),
    ("transcript", {"transcript": ""}, "`transcript` is empty"),
    ("transcript", {"transcript": []}, "`transcript` has no line"),
    ("transcript", {"transcript": 5}, "`transcript` is a number, not text"),
    ("transcript", {"script": "Hello.\nA: x\nB: y"}, "line 1 of `script` names no speaker, as in `JERRY: Hello`"),
    ("transcript", {"script": "[A room]\n(night)"}, "`script` has no line"),
    ("transcript", {"script": "A: x\nB:\nA: z"}, "what B says in `script` is empty"),
    (
        "transcript",
        {"dialogue": [{"speaker": "A", "text": "x"}, "y"]},
        "line 2 of `dialogue` is text, not an object with `speaker` and `text`",
    ),
    ("transcript", {"dialogue": [{"speaker": "A"}]}, "there is no `text` of line 1 of `dialogue`"),
    (
        "transcript",
        {"dialogue": [{"speaker": "A", "text": 3}]},
        "`text` of line 1 of `dialogue` is a number, not text",
    ),
]


def test_bad_rows_say_exactly_what_is_wrong() -> None:
    wrong = []
    for name, row, words in BAD:
        try:
            wrong.append((name, str(row)[:200], formats.find(name).convert(row, {}), words))
        except formats.BadRow as why:
            if str(why) != words:
                wrong.append((name, str(row)[:200], str(why), words))
    assert wrong == []


def test_the_table_is_large() -> None:
    assert len(BAD) >= 100
    assert {name for name, *_ in BAD} == set(formats.names())
    assert all(words[-1] != "." and "\n" not in words for *_, words in BAD)


@pytest.mark.parametrize("name", formats.names())
def test_any_column_of_any_type_is_a_bad_row_or_a_good_one(name: str) -> None:
    """Every value of every good row of the format, replaced by what does not belong there: at any depth, one at a time."""
    strange = [None, True, 0, -1.5, float("nan"), "", " ", "\ud800", "[", "{}", [], [None], ["a", "b"], {}, {"": None}]
    mine, count = formats.find(name), 0
    for row in [raw for n, _, raw, _ in CONVERSIONS if n == name]:
        for path in paths(row):
            for value in [*strange, DEEP, {1, 2}, b"x"]:
                changed = replaced(row, path, value)
                formats.find(name).matches(changed)
                count += outcome(mine, changed) == "bad"
    assert count > 10


def outcome(f: formats.Format, row: dict[str, Any]) -> str:
    """`bad` where the row is refused with a reason; otherwise `good`, and then it is canonical."""
    try:
        out = f.convert(row, {})
    except formats.BadRow as why:
        return "bad" if str(why) else "without a reason"
    if not isinstance(f, formats.Joining):
        assert [formats.check(f.KIND, good) for good in out] == [None]
    return "good"


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for key, item in inner for way in ((*path, key), *paths(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at `path`."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


COLUMNS = [
    "messages",
    "tools",
    "functions",
    "conversations",
    "conversation",
    "system",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "text",
    "chosen",
    "rejected",
    "chat",
    "sample",
    "speaker",
    "line",
    "transcript",
    "dialogue",
    "scene",
    "label",
]
KEYS = [
    "role",
    "content",
    "from",
    "value",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "type",
    "text",
    "weight",
    "function_call",
    "speaker",
    "id",
]
WORDS = [
    *["user", "assistant", "system", "tool", "human", "gpt", "function", "function_call", "text", "A", "B"],
    "USER: a\n\n\nASSISTANT: b <|endoftext|>",
    '<functioncall> {"name": "f", "arguments": \'{"a": "it\'s"}\'}',
    '[{"role": "user", "content": "a"}]',
    '{"name": "f"}',
    "A: x\nB: y",
]
TEXT = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=()), max_size=8)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.engine  # takes a second
@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=3), JSON, max_size=5))
def test_whatever_comes_in_only_bad_row_comes_out(row: dict[str, Any]) -> None:
    for f in formats.FORMATS:
        assert f.matches(row) in (True, False)
        assert outcome(f, row) in ("good", "bad")
    with suppress(UsageError):
        assert formats.detect([row]).matches(row)
