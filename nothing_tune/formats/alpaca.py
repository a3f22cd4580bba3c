"""Instructions: `{"instruction": ..., "input": ..., "output": ...}`, as Stanford Alpaca has them.

`input` may be missing or empty (Dolly calls it `context`); the answer may be called `response`; `system` or
`system_prompt` and `history`, a list of earlier [instruction, output] pairs, are optional. The instruction and its input
become one message of the user with an empty line between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._turns import conversation
from nothing_tune.formats._values import BadRow, kind, listed, others, present, words

NAME = "alpaca"
WANTS = "columns `instruction` and `output` (or `response`), and perhaps `input`, `system`, `history`"
KIND = "messages"
OVER: tuple[str, ...] = ()

INPUTS = ("input", "context")
ANSWERS = ("output", "response")
SYSTEMS = ("system", "system_prompt")
USED = frozenset({"instruction", "history", *INPUTS, *ANSWERS, *SYSTEMS})


def matches(row: Mapping[str, Any]) -> bool:
    """Whether there are an instruction and a column for its answer."""
    return "instruction" in row and any(name in row for name in ANSWERS)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One conversation: system (where there is one), the pairs of `history`, the instruction, the answer."""
    answer = present(row, ANSWERS)
    if answer is None:
        raise BadRow("there is no `output`")
    turns: list[tuple[str, Any]] = []
    system = present(row, SYSTEMS)
    if system and words(row[system], f"`{system}`").strip():
        turns.append((f"`{system}`", {"role": "system", "content": row[system]}))
    for number, pair in enumerate(listed(row.get("history") or [], "`history`"), 1):
        place = f"`history` pair {number}"
        if not isinstance(pair, list | tuple):
            raise BadRow(f"{place} is {kind(pair)}, not a list of an instruction and an answer")
        if len(pair) != 2:
            raise BadRow(f"{place} has {len(pair)} {'entry' if len(pair) == 1 else 'entries'}, not 2")
        turns.append((place, {"role": "user", "content": words(pair[0], f"the instruction of {place}")}))
        turns.append((place, {"role": "assistant", "content": words(pair[1], f"the answer of {place}")}))
    parts = [
        words(row[name], f"`{name}`")
        for name in ("instruction", present(row, INPUTS))
        if name and row.get(name) is not None
    ]
    asked = "\n\n".join(part for part in parts if part.strip())
    if row.get("instruction") is None:
        raise BadRow("there is no `instruction`")
    if not asked:
        raise BadRow("`instruction` and `input` are empty")
    said = words(row[answer], f"`{answer}`")
    if not said.strip():
        raise BadRow(f"`{answer}` is empty")
    turns += [
        ("`instruction`", {"role": "user", "content": asked}),
        (f"`{answer}`", {"role": "assistant", "content": said}),
    ]
    return [{"messages": conversation(turns), **others(row, USED)}]
