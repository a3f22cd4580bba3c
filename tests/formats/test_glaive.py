"""Glaive's text form: a table of rows as published and what becomes of them, each pair checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nothing_tune import formats
from nothing_tune.formats import glaive

CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("glaive.yaml").read_text(encoding="utf-8"))


def told(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the table has it."""
    out = {message["role"]: message["content"]}
    if "tool_calls" in message:
        assert all(call["type"] == "function" for call in message["tool_calls"])
        out["calls"] = [{call["function"]["name"]: call["function"]["arguments"]} for call in message["tool_calls"]]
    return out


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_conversion(case: dict[str, Any]) -> None:
    raw = {name: case[name] for name in ("system", "chat", "sample") if name in case}
    if "bad" in case:
        with pytest.raises(formats.BadRow) as caught:
            glaive.convert(raw, {})
        assert str(caught.value) == case["bad"]
        return
    assert glaive.matches(raw)
    (row,) = glaive.convert(raw, {})
    assert [told(message) for message in row["messages"]] == case["messages"]
    assert [tool["function"]["name"] for tool in row.get("tools", [])] == case.get("tools", [])
    assert formats.check("messages", row) is None


def test_the_table_is_large() -> None:
    assert len([case for case in CASES if "messages" in case]) >= 40
    assert len([case for case in CASES if "bad" in case]) >= 20
    assert len({case["case"] for case in CASES}) == len(CASES)


def test_a_function_is_kept_whole() -> None:
    function = (
        '{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}'
    )
    row = {
        "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
        + function,
        "chat": "USER: x\n\n\nASSISTANT: y",
        "id": 7,
        "nested": {"not": "plain"},
    }
    (out,) = glaive.convert(row, {})
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert out["tools"] == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}
    ]
    assert out["id"] == 7
    assert "nested" not in out


def test_a_long_chat_takes_no_long_time() -> None:
    """Runs of white space and of role words cost no more than their length: seconds here would be minutes by the square."""
    blank = "\n" * 200_000
    (row,) = glaive.convert({"chat": f"USER: x{blank}ASSISTANT: y{' ' * 200_000}<|endoftext|>"}, {})
    assert [message["content"] for message in row["messages"]] == ["x", "y"]
    many = "USER: x\n\n\nASSISTANT: y <|endoftext|>\n\n\n" * 5_000
    assert len(glaive.convert({"chat": many}, {})[0]["messages"]) == 10_000
