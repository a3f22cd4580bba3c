"""The samples that ship with the recipes: enough rows, well-formed, held-out rows apart from the training rows."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from nothing_tune import formats
from nothing_tune.recipe.library import library_root

KINDS = {
    "nothing-gpt": "messages",
    "marco": "messages",
    "function-calling": "glaive",
    "quick-start-7b": "text",
    "memory-optimized-13b": "prompt-completion",
    "high-quality-7b": "messages",
}
"""Sample -> format of its rows. The quickstart's sample has its own tests."""
COLUMNS = {
    "messages": {"messages"},
    "text": {"text"},
    "prompt-completion": {"prompt", "completion"},
    "glaive": {"system", "chat"},
}
"""Format -> the columns of its rows."""

FRAME = {"marco": {"Marco"}}
"""Names that frame every row of both files: the teacher's, in the system message."""

ROLES_AFTER = {
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant"},
}

samples = pytest.mark.parametrize("name", KINDS)


def raw(name: str) -> list[dict[str, Any]]:
    """The rows as the file has them."""
    path = library_root() / "samples" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(name: str) -> list[dict[str, Any]]:
    """The rows as they are trained on."""
    format_ = formats.find(KINDS[name.removesuffix(".eval")])
    return [row for one in raw(name) for row in format_.convert(one, {})]


def texts(row: dict[str, Any], *, framed: bool) -> list[str]:
    """The row's texts; without `framed`, not the system message and not the words that every prompt begins with."""
    if "messages" in row:
        return [said(m) for m in row["messages"] if framed or m["role"] != "system"]
    return [text.removeprefix("" if framed else "Summarise in one sentence: ") for text in row.values()]


def said(message: dict[str, Any]) -> str:
    """A message as text: what it says, and the functions that it calls as JSON."""
    calls = [json.dumps(c["function"], ensure_ascii=False) for c in message.get("tool_calls", [])]
    return "\n".join([message.get("content") or "", *calls]).strip()


def sentences(row: dict[str, Any]) -> set[str]:
    """Its sentences in lower case, without punctuation at their ends; a function call or its result counts as one."""
    parts = []
    for text in texts(row, framed=False):
        parts += [text] if text.startswith("{") else re.split(r"[.!?…:;]+(?=[\s»\"”]|$)|\n", text)
    return {found for part in parts if (found := part.strip(' \t«»"“”,-()').lower())}


def words(row: dict[str, Any]) -> list[tuple[str, bool]]:
    """Its words, each with whether it begins a sentence."""
    out = []
    for text in texts(row, framed=True):
        for match in re.finditer(r"[^\W_][\w'-]*", text):
            before = text[: match.start()].rstrip(" «\"“'(")
            out.append((re.sub(r"'s?$", "", match[0]), not before or before[-1] in ".!?:…\n{["))
    return out


def names(part: list[dict[str, Any]], common: set[str]) -> set[str]:
    """Capitalised words of more than one letter that are never written small: people, places, products."""
    found = {word for row in part for word, _ in words(row) if len(word) > 1 and word[0].isupper()}
    return {word for word in found if word.lower() not in common and not word.startswith("I'")}


def calls(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions that `part` calls, {name, arguments}."""
    messages = [message for row in part for message in row["messages"]]
    return [call["function"] for message in messages for call in message.get("tool_calls", [])]


def arguments(part: list[dict[str, Any]]) -> set[str]:
    """Texts that the function calls of `part` pass."""
    values = [value for call in calls(part) for value in call["arguments"].values()]
    return {value.lower() for value in values if isinstance(value, str)}


def functions(part: list[dict[str, Any]]) -> set[str]:
    """Names of the functions that `part` offers."""
    return {tool["function"]["name"] for row in part for tool in row["tools"]}


@samples
def test_enough_rows_and_all_different(name: str) -> None:
    train, held_out = rows(name), rows(f"{name}.eval")
    assert 60 <= len(train) <= 100
    assert 12 <= len(held_out) <= 20
    every = [json.dumps(row, sort_keys=True) for row in train + held_out]
    assert len(set(every)) == len(every)


@samples
def test_rows_are_well_formed(name: str) -> None:
    for row in raw(name) + raw(f"{name}.eval"):
        assert set(row) - {"level"} == COLUMNS[KINDS[name]]
    for row in rows(name) + rows(f"{name}.eval"):
        assert all(text.strip() for text in texts(row, framed=True))
        assert sum(len(text) for text in texts(row, framed=True)) < 1_200, "short rows: a rehearsal runs on a CPU"
        if "messages" in row:
            roles = [message["role"] for message in row["messages"]]
            assert roles[0] in {"system", "user"}
            assert roles[-1] == "assistant"
            assert all(after in ROLES_AFTER[before] for before, after in pairwise(roles))


@samples
def test_held_out_rows_share_no_sentence(name: str) -> None:
    train = {sentence for row in rows(name) for sentence in sentences(row)}
    held_out = {sentence for row in rows(f"{name}.eval") for sentence in sentences(row)}
    assert not train & held_out


@samples
def test_held_out_rows_share_no_name(name: str) -> None:
    train, held_out = rows(name), rows(f"{name}.eval")
    # A word that is written small somewhere, or stands only at the beginning of sentences, is a word of the language.
    small = {word for row in train + held_out for word, _ in words(row) if word[0].islower()}
    only_first = {word for row in train + held_out for word, first in words(row) if first} - {
        word for row in train + held_out for word, first in words(row) if not first
    }
    common = small | {word.lower() for word in only_first}
    shared = names(train, common) & names(held_out, common)
    assert not shared - FRAME.get(name, set())


def test_function_calls_are_offered_complete_and_apart() -> None:
    train, held_out = rows("function-calling"), rows("function-calling.eval")
    for row in train + held_out:
        for message, answer in pairwise(row["messages"]):
            for call in calls([{"messages": [message]}]):
                assert message["role"] == "assistant"
                assert answer["role"] == "tool"
                assert call["name"] in functions([row])
                assert isinstance(json.loads(answer["content"]), dict)
    assert len(calls(train + held_out)) >= 50
    assert not functions(train) & functions(held_out)
    assert not arguments(train) & arguments(held_out)


def test_marco_covers_all_levels() -> None:
    levels = {"A1", "A2", "B1", "B2", "C1", "C2"}
    for part in (rows("marco"), rows("marco.eval")):
        assert {row["level"] for row in part} == levels


def test_every_sample_is_tested() -> None:
    files = {path.name.split(".")[0] for path in (library_root() / "samples").glob("*.jsonl")}
    assert files - {"quickstart"} == set(KINDS)
