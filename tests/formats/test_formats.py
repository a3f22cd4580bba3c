"""One suite over all row formats, and what each refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune import formats
from nothing_tune.errors import UsageError

GOOD = {
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "prompt-completion": {"prompt": "a", "completion": "b"},
    "text": {"text": "a"},
}


def test_every_file_is_a_format() -> None:
    files = {p.stem.replace("_", "-") for p in Path(formats.__file__).parent.glob("*.py") if p.stem != "__init__"}
    assert files == set(formats.names()) == set(GOOD)


@pytest.mark.parametrize("name", formats.names())
def test_each_format_knows_its_own_rows_and_no_other(name: str) -> None:
    own = formats.find(name)
    row = GOOD[name]
    assert own.matches(list(row), row)
    assert own.check(row) is None
    assert own.WANTS
    assert formats.detect(list(row), row) is own
    assert not own.matches(["other"], {"other": "x"})
    for other, theirs in GOOD.items():
        if other != name:
            assert not own.matches(list(theirs), theirs)
    assert own.check({}) is not None
    assert own.check(dict.fromkeys(row)) is not None


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("messages", {"messages": "hello"}, "not a list"),
        ("messages", {"messages": [{"content": "x"}]}, "message 1 has no `role`"),
        ("messages", {"messages": [{"role": "human", "content": "x"}]}, "'human'"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "no text"),
        ("messages", {"messages": [{"role": "user", "content": "x"}]}, "nothing to learn"),
        ("text", {"text": "  "}, "not a string with something in it"),
        ("text", {"text": 3}, "not a string with something in it"),
        ("prompt-completion", {"prompt": "a", "completion": " "}, "empty"),
        ("prompt-completion", {"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}, "same kind"),
        ("prompt-completion", {"prompt": 1, "completion": "b"}, "neither"),
    ],
)
def test_bad_rows(name: str, row: dict, words: str) -> None:
    assert words in (formats.find(name).check(row) or "")


def test_tool_calls_may_stand_without_text() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    row = {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1"},
        ]
    }
    assert formats.find("messages").check(row) is None


def test_unknown_names_and_columns() -> None:
    with pytest.raises(UsageError, match="no data format 'alpaca'"):
        formats.find("alpaca")
    with pytest.raises(UsageError, match="its columns are a, b"):
        formats.detect(["a", "b"], {"a": 1, "b": 2})
