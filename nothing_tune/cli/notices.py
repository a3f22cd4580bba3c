"""What a run or a report has to say, as lines that fit: wrapped with a hanging indent, paths as short as they can be."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from nothing_tune.cli import console
from nothing_tune.cli.console import Ink
from nothing_tune.errors import Problem

INDENT = "  "


def lines(head: str, what: str, hint: str, columns: int, paint: Ink) -> list[str]:
    """`head` in yellow, what is the matter, and what to do about it: on one line where that fits, else wrapped, the hint below.

    Args:
        head: `warning:`; empty for what is no warning.
        columns: As many as a line may take.
    """
    what, hint = clean(what), clean(hint)
    start = f"{head} " if head else ""
    if len(f"{start}{what}; {hint}" if hint else f"{start}{what}") <= columns:
        return [f"{_headed(f'{start}{what}', head, paint)}{paint.dim(f'; {hint}') if hint else ''}"]
    first, *rest = wrapped(f"{start}{what}", columns)
    out = [_headed(first, head, paint), *rest]
    return [*out, *hint_lines(hint, columns, paint)]


def hint_lines(hint: str, columns: int, paint: Ink) -> list[str]:
    """`  hint: ...`, its further lines below its first word; none for an empty one."""
    label = f"{INDENT}hint: "
    found = wrapped(hint, columns - len(label), "")
    return [f"{paint.dim(label) if not n else ' ' * len(label)}{line}" for n, line in enumerate(found)]


def wrapped(text: str, columns: int, indent: str = INDENT) -> list[str]:
    """`text` on lines of at most `columns`, all but the first behind `indent`; empty for no text."""
    return textwrap.wrap(clean(text), columns, subsequent_indent=indent, break_on_hyphens=False)


def clean(text: str) -> str:
    """`text` without control characters, its paths as `console.near` shows them."""
    return console.printable(console.near(text))


def near(problem: Problem) -> Problem:
    """The problem with short paths in what it says."""
    return replace(problem, what=console.near(problem.what), hint=console.near(problem.hint))


def _headed(line: str, head: str, paint: Ink) -> str:
    return f"{paint.warn(head)}{line.removeprefix(head)}" if head else line
