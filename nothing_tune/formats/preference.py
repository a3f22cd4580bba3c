"""Preference rows: recognised, so that they can be refused with a way on; `tune` trains on answers, not on comparisons.

Known: {prompt, chosen, rejected} and {chosen, rejected} (DPO, reward models), OpenAI's {input, preferred_output,
non_preferred_output}, and KTO's {prompt, completion, label} with a label that is true or false (in csv: text that says so).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._values import BadRow, entries

NAME = "preference"
WANTS = "columns `chosen` and `rejected`, `preferred_output` and `non_preferred_output`, or `completion` and `label`"
KIND = ""
"""Nothing: these rows are not trained on."""
OVER: tuple[str, ...] = ("prompt-completion",)

PAIRS = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))


def matches(row: Mapping[str, Any]) -> bool:
    """Whether two answers stand side by side, or one with a verdict."""
    if any(a in row and b in row for a, b in PAIRS):
        return True
    label = row.get("label")
    verdict = label.strip().lower() in ("true", "false") if isinstance(label, str) else isinstance(label, bool)
    return verdict and "prompt" in row and "completion" in row


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Never a row: `BadRow` says what to do."""
    raise BadRow("this is a preference row, and tune trains on answers, not on comparisons")


def cure(row: Mapping[str, Any]) -> str:
    """How to train on the preferred answers of rows like `row`."""
    if "preferred_output" in row:
        return "to train on the preferred answers, set data.columns={prompt: input, completion: preferred_output}"
    if "chosen" not in row:
        return "to train on the good answers, keep the rows whose label is true and set data.format=prompt-completion"
    turns = entries(row["chosen"])
    whole = bool(turns) and isinstance(turns[0], Mapping) and turns[0].get("role") in ("system", "user")
    if turns and (whole or "prompt" not in row):
        return "to train on the chosen answers, set data.columns={messages: chosen} and data.format=messages"
    if "prompt" not in row:
        return "to train on the chosen texts, set data.columns={text: chosen} and data.format=text"
    return "to train on the chosen answers, set data.columns={completion: chosen} and data.format=prompt-completion"
