"""What to do about columns that no format has: a mapping where the names suggest one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._values import entries

ASKED = ("prompt", "question", "query", "instruction", "problem", "request", "input", "source", "user", "human")
ANSWERED = ("completion", "answer", "response", "output", "reply", "solution", "target", "assistant", "summary", "gpt")
WRITTEN = ("text", "content", "body", "document", "article", "passage", "sentence", "story", "poem")
"""Names that columns have elsewhere, the likeliest first."""


def guess(row: Mapping[str, Any]) -> dict[str, str]:
    """The `data.columns` that may fit rows like `row`: the format's column, then the file's; empty when none is likely."""
    columns = {name: value for name, value in row.items() if isinstance(name, str)}
    for name, value in columns.items():
        turns = entries(value)
        if turns and isinstance(turns[0], Mapping):
            if "role" in turns[0] and "content" in turns[0]:
                return {"messages": name}
            if "from" in turns[0] and "value" in turns[0]:
                return {"conversations": name}
    texts = {name.strip().lower(): name for name, value in columns.items() if isinstance(value, str)}
    asked = next((texts[name] for name in ASKED if name in texts), None)
    answered = next((texts[name] for name in ANSWERED if name in texts and texts[name] != asked), None)
    if asked and answered:
        both = {"prompt": asked, "completion": answered}
        return {wanted: name for wanted, name in both.items() if wanted != name}
    written = next((texts[name] for name in WRITTEN if name in texts), None)
    return {"text": written} if written else {}


def spelt(columns: Mapping[str, str]) -> str:
    """The mapping as it is written in a recipe or on the command line."""
    return "data.columns={" + ", ".join(f"{wanted}: {name}" for wanted, name in columns.items()) + "}"
