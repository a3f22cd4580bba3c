"""Row formats of training data, one file each: the file's name is the format's name, dashes written as underscores.

A format tells its rows from others (`matches`) and converts them to canonical rows (`convert`), which are of one of three
kinds, plus those other columns of the raw row that are plain values:

    messages            {"messages": [{"role", "content", "tool_calls"?, "weight"?, ...}], "tools": [...]?}
    prompt-completion   {"prompt", "completion", "tools"?}, both text or both lists of messages
    text                {"text"}

The arguments of tool calls are objects, never JSON text; tools are {"type": "function", "function": {...}}; keys whose
value is null are left out; `weight` 0 on the assistant's message means that it is not learned. Files that start with an
underscore are no formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from nothing_tune.errors import UsageError
from nothing_tune.formats import (
    alpaca,
    glaive,
    messages,
    openai,
    preference,
    prompt_completion,
    sharegpt,
    text,
    transcript,
)
from nothing_tune.formats._advice import guess, spelt
from nothing_tune.formats._values import BadRow, LeftOut

__all__ = ["FORMATS", "KINDS", "SAMPLE", "BadRow", "Format", "Joining", "LeftOut", "check", "detect", "find", "names"]

KINDS = ("messages", "prompt-completion", "text")
"""What canonical rows are."""
SAMPLE = 100
"""Rows that `detect` looks at."""

P = TypeVar("P")


class Format(Protocol):
    """What a format module offers.

    Attributes:
        NAME: What `data.format` calls it.
        WANTS: One line: the columns that its rows have.
        KIND: The kind of canonical row that it converts to; empty for rows that are refused.
        OVER: Formats whose rows it reads too: where both match, this one is meant.
    """

    NAME: str
    WANTS: str
    KIND: str
    OVER: tuple[str, ...]

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether `row` looks like this format; it may still turn out bad. Raises nothing."""

    def convert(self, row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Canonical rows, usually one; `BadRow` says what is wrong with `row`, and nothing else is raised.

        `options` are the source's settings, such as {"transcript": {"speaker": ...}}.
        """


@runtime_checkable
class Joining(Protocol):
    """What a format offers besides when an example spans several raw rows: then `convert` gives pieces, and this joins them."""

    def join(
        self, rows: Iterable[tuple[P, dict[str, Any]]], options: Mapping[str, Any]
    ) -> Iterator[tuple[P, dict[str, Any] | LeftOut]]:
        """Canonical rows from what `convert` gave, each with its place; places are handed through, never looked at.

        What can be in no example is given as `LeftOut`, to be counted.

        Raises:
            UsageError: `options` lack what is needed.
        """


FORMATS: tuple[Format, ...] = tuple(
    cast(Format, m)
    for m in (messages, openai, prompt_completion, text, alpaca, sharegpt, glaive, transcript, preference)
)
"""All formats; `preference` is only recognised, to be refused."""


def names() -> list[str]:
    """The names that `data.format` takes besides `auto`."""
    return [f.NAME for f in FORMATS if f.KIND]


def find(name: str) -> Format:
    """The format called `name`; `UsageError` names the ones that exist."""
    for f in FORMATS:
        if name == f.NAME and f.KIND:
            return f
    raise UsageError(f"there is no data format {name!r}", hint=f"data.format is one of auto, {', '.join(names())}")


def detect(rows: Sequence[Mapping[str, Any]], source: str = "the data") -> Format:
    """The format of `rows`, of which the first `SAMPLE` are looked at; rows that match nothing do not count.

    Raises:
        UsageError: No format matches, several do, or these are preference rows; the hint is the cure.
    """
    seen = [row for row in rows[:SAMPLE] if row]
    found: Counter[str] = Counter(f.NAME for row in seen for f in FORMATS if f.matches(row))
    below = {name for f in FORMATS if found[f.NAME] for name in f.OVER}
    left = [f for f in FORMATS if found[f.NAME] and f.NAME not in below]
    refused = next((f for f in left if not f.KIND), None)
    if refused:
        row = next(row for row in seen if refused.matches(row))
        also = [f"to train on what {f.NAME} reads, set data.format={f.NAME}" for f in left if f is not refused]
        raise UsageError(
            f"{source} holds preference rows (answers side by side), and tune trains on answers, not on comparisons",
            hint="; ".join([preference.cure(row), *also]),
        )
    if len(left) == 1:
        return left[0]
    if left:
        told = " and ".join(f"{f.NAME} ({_share(found[f.NAME], len(seen))})" for f in left)
        raise UsageError(
            f"the rows of {source} fit more than one format: {told}",
            hint=" or ".join(f"data.format={f.NAME}" for f in left),
        )
    raise _unknown(seen, source)


def _share(count: int, total: int) -> str:
    if count == total:
        return "every row" if total == 1 else f"all {total} rows looked at"
    return f"{count} of {total} rows"


def _unknown(rows: Sequence[Mapping[str, Any]], source: str) -> UsageError:
    columns = list(dict.fromkeys(str(name) for row in rows for name in row))
    wants = "; ".join(f"{f.NAME}: {f.WANTS}" for f in FORMATS if f.KIND)
    if not columns:
        return UsageError(f"{source} has no row with columns", hint=f"rows need one of: {wants}")
    shown = ", ".join(columns[:20]) + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
    mapping = next(filter(None, map(guess, rows)), None)
    cure = f"perhaps {spelt(mapping)}" if mapping else "name its columns with data.columns={FORMAT'S COLUMN: YOURS}"
    return UsageError(
        f"{source} has no format that is known: its columns are {shown}",
        hint=f"{cure}; rows need one of: {wants}",
    )


def check(kind: str, row: Mapping[str, Any]) -> str | None:
    """What is wrong with the canonical `row` of one of `KINDS`, as one clause; None when it can be trained on."""
    by_kind = {f.NAME: f for f in FORMATS}
    try:
        clean = by_kind[kind].convert(row, {})[0]
    except BadRow as why:
        return str(why)
    for name in ("messages", "prompt", "completion", "text", "tools"):
        if clean.get(name) != row.get(name):
            return f"`{name}` is not in its canonical form"
    return None
