"""Duplicates: what counts as the same row, exactly and nearly."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nothing_tune.data.duplicates import Match, Near, Seen, key, shingles
from nothing_tune.data.rows import Row


def chat(*turns: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)], **more}


CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": "x y"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (chat("hello there", "hi"), chat(" hello \n there\t", "hi ")),
    (chat("caf\u00e9", "hi"), chat("cafe\u0301", "hi")),
    (chat("a", "b", id=1, level="A1"), chat("a", "b", id=2)),
    ({"prompt": "a", "completion": "b"}, {"completion": "b", "prompt": "a "}),
    ({"text": "x\u00a0y"}, {"text": "x y"}),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]},
        {"messages": [{"content": "", "role": "assistant", "tool_calls": [{**CALL}]}]},
    ),
]
OTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (chat("a", "b"), chat("a", "c")),
    (chat("a", "b"), chat("a b")),
    (chat("a", "b"), chat("A", "b")),
    (chat("a", "b"), {"prompt": "a", "completion": "b"}),
    ({"text": "a"}, {"prompt": "a"}),
    (chat("a", "b"), chat("a", "b", tools=TOOLS)),
    ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "system", "content": "a"}]}),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        {"messages": [{"role": "assistant", "tool_calls": []}]},
    ),
]


def test_key() -> None:
    for one, other in SAME:
        assert key(one) == key(other), (one, other)
    for one, other in OTHER:
        assert key(one) != key(other), (one, other)
    assert len(key({"text": "a"})) == 16


def test_shingles() -> None:
    assert shingles({"text": ""}) == []
    assert shingles({"text": "Hello"}) == [b"hello"]
    assert shingles({"text": "a b, C d a b c"}) == [b"a b c", b"b c d", b"c d a", b"d a b"]
    assert shingles({"text": "\u6f22\u5b57\u304b\u306a"}) == [
        "\u6f22 \u5b57 \u304b".encode(),
        "\u5b57 \u304b \u306a".encode(),
    ]
    said = shingles(
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}], "tools": TOOLS}
    )
    assert said == [b"hi"]


def words(source: random.Random, count: int) -> list[str]:
    return ["".join(source.choices("abcdefghijklmnop", k=source.randint(2, 9))) for _ in range(count)]


@pytest.mark.engine  # takes a second
def test_near() -> None:
    """Of 60 rows each with one word of 120 changed nearly all are found; of 200 unrelated ones none."""
    source = random.Random(1)
    texts = [words(source, 120) for _ in range(200)]
    near: Near[int] = Near(0.85)
    for number, text in enumerate(texts):
        value = {"text": " ".join(text)}
        assert near.find(value) is None
        near.add(value, number)
    found = 0
    for number, text in enumerate(texts[:60]):
        changed = [*text[:50], "changed", *text[51:]]
        assert near.find({"text": " ".join(words(source, 120))}) is None
        found += near.find({"text": " ".join(changed)}) == number
    assert found >= 57
    assert near.find({"text": ""}) is None
    near.add({"text": ""}, 999)
    assert near.find({"text": ""}) is None


def test_near_leaves_the_instructions_out() -> None:
    system = {"role": "system", "content": " ".join(words(random.Random(2), 300))}
    near: Near[int] = Near(0.8)
    near.add({"messages": [system, *chat("what is the capital of Spain", "Madrid")["messages"]], "tools": TOOLS}, 1)
    assert near.find({"messages": [system, *chat("how do birds fly so far", "with wings")["messages"]]}) is None
    assert near.find(chat("what is the capital of Spain", "Madrid")) == 1


@pytest.mark.parametrize("near", [None, 0.8])
def test_seen(near: float | None) -> None:
    seen = Seen(near)
    assert seen.add(Row(chat("what is the longest river of the world", "the Nile"), 0, 1)) is None
    assert seen.add(Row({"text": "other"}, 2, 12_345_678_901)) is None
    assert seen.find(Row({"text": " other "}, 9, 9)) == Match("exact", 2, 12_345_678_901)
    assert seen.add(Row(chat("what is the longest river of the world", "the Nile "), 0, 7)) == Match("exact", 0, 1)
    nearly = Row(chat("What is the longest river of the world?", "The Nile!"), 0, 8)
    assert seen.find(nearly) == (Match("near", 0, 1) if near else None)
    assert seen.add(Row(chat("something else", "entirely"), 0, 9)) is None
