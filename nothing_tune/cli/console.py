"""How things look on the screen: colours, tables, problems, times and sizes. Plain text where the output is no terminal.

Colours are few and mean one thing each: cyan a key or a command, green a text value or success, yellow a warning, red an
error, dim what explains. `NO_COLOR` (any value) switches them off, `FORCE_COLOR` switches them on for pipes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

from nothing_tune.errors import Problem, TuneError

T = TypeVar("T")
PIPE_WIDTH = 100
"""Columns of text that is wrapped when the output is no terminal."""
_CODE = re.compile(r"\x1b\[[0-9;]*m")
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Ink:
    """Colours for one stream; with `on` false every method returns its text unchanged."""

    on: bool

    def key(self, text: str) -> str:
        """A key or a command: cyan."""
        return self._paint(text, "36")

    def string(self, text: str) -> str:
        """A text value: green."""
        return self._paint(text, "32")

    ok = string

    def warn(self, text: str) -> str:
        """A warning: yellow."""
        return self._paint(text, "33")

    def error(self, text: str) -> str:
        """The word `error`: bold red."""
        return self._paint(text, "1;31")

    def removed(self, text: str) -> str:
        """What a difference takes away: red."""
        return self._paint(text, "31")

    def bold(self, text: str) -> str:
        """What matters most in a line."""
        return self._paint(text, "1")

    def dim(self, text: str) -> str:
        """What explains."""
        return self._paint(text, "2")

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and text else text


def ink(stream: TextIO | None = None) -> Ink:
    """The colours of a stream (stdout when None)."""
    if os.environ.get("NO_COLOR"):
        return Ink(False)
    return Ink(bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream))


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream (stdout when None) is a terminal that understands more than text."""
    stream = stream or sys.stdout
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def width() -> int | None:
    """Columns of the terminal; None when the output is no terminal, where lines are never cut."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def out(*lines: str) -> None:
    """Writes lines to stdout."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def out_json(data: Any) -> None:
    """Writes data to stdout as JSON, indented; NaN and infinity as null."""
    from nothing_tune.artifacts import finite

    out(json.dumps(finite(data), indent=2, ensure_ascii=False, default=str))


def ask(question: str) -> bool:
    """Asks on the terminal; True only for y or yes."""
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def note(text: str) -> None:
    """Writes one dim line to stderr: what the program does on its own account."""
    sys.stderr.write(ink(sys.stderr).dim(text) + "\n")


def outcome(call: Callable[[], T]) -> tuple[T | None, TuneError | None]:
    """The result of `call`, or the `TuneError` that it raised: the only place of the program that catches one."""
    try:
        return call(), None
    except TuneError as error:
        return None, error


def problem_lines(problem: Problem, paint: Ink) -> list[str]:
    """`Problem.lines()` with colours: what is wrong in bold, the rest dim."""
    first, *rest = problem.lines()
    word, _, what = first.partition(": ")
    head = paint.error if problem.severity == "error" else paint.warn
    lines = [f"{head(f'{word}:')} {paint.bold(printable(what))}"]
    for line in rest:
        label, _, text = line.partition(": ")
        lines.append(f"{paint.dim(f'{label}:')} {printable(text)}" if "hint" in label else paint.dim(printable(line)))
    return lines


def show_problems(problems: Iterable[Problem], stream: TextIO | None = None) -> None:
    """Writes problems to stderr (or `stream`)."""
    stream = stream or sys.stderr
    paint = ink(stream)
    for problem in problems:
        stream.write("".join(f"{line}\n" for line in problem_lines(problem, paint)))


def printable(text: str) -> str:
    """`text` without the control characters that could drive a terminal (they may come from a model or a file)."""
    return _UNSAFE.sub("", text)


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    paint: Callable[[int, str, str], str] | None = None,
    indent: int = 0,
) -> list[str]:
    """Aligned columns, two spaces apart; the widest column is cut with `…` where the terminal is too narrow.

    Args:
        right: Indices of columns that are aligned to the right.
        paint: `(column, cell, padded cell) -> padded cell with colour`; the padding is done before.
        indent: Columns that the caller puts before each line.
    """
    tint = ink()
    sizes = [max(len(str(r[i])) for r in [headers, *rows]) for i in range(len(headers))]
    limit = width()
    while limit and sum(sizes) + 2 * (len(sizes) - 1) > limit - indent:
        widest = max(range(len(sizes)), key=lambda i: sizes[i])
        if sizes[widest] <= 8:
            break
        sizes[widest] -= 1

    def line(cells: Sequence[str], head: bool) -> str:
        parts = []
        for i, cell in enumerate(cells):
            text = cut(str(cell), sizes[i])
            padded = text.rjust(sizes[i]) if i in right else text.ljust(sizes[i])
            if i == len(cells) - 1:
                padded = padded.rstrip()
            parts.append(tint.dim(padded) if head else paint(i, str(cell), padded) if paint else padded)
        return "  ".join(parts).rstrip()

    return [line(headers, True), *(line(row, False) for row in rows)]


def cut(text: str, columns: int | None) -> str:
    """`text`, ended with `…` when it is longer than `columns`."""
    if columns is None or len(text) <= columns:
        return text
    return text[: max(columns - 1, 0)] + "…"


def visible(text: str) -> int:
    """Columns that a coloured text takes."""
    return len(_CODE.sub("", text))


def cut_coloured(text: str, columns: int | None) -> str:
    """As `cut`, for a text that holds colours."""
    if columns is None or visible(text) <= columns:
        return text
    kept, used = [], 0
    for part in re.split(r"(\x1b\[[0-9;]*m)", text):
        if _CODE.fullmatch(part):
            kept.append(part)
        elif used < columns - 1:
            kept.append(part[: columns - 1 - used])
            used += len(kept[-1])
    return "".join(kept) + "…\x1b[0m"


def near(path: str) -> str:
    """A path relative to the current folder where it lies below it, or as `recipes/...` in the library; other text unchanged."""
    from nothing_tune.recipe.library import library_root

    return path.replace(f"{os.getcwd()}/", "").replace(f"{library_root()}/", "recipes/")


def clock(seconds: float | None) -> str:
    """`0:02:41`; `-` for unknown."""
    if seconds is None:
        return "-"
    whole = max(int(seconds), 0)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def age(seconds: float) -> str:
    """How long ago, in the unit that fits: `41 s`, `3 min`, `2 h`, `5 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(int(seconds), 0)} s"


def size(count: int) -> str:
    """Bytes as people read them: `812 B`, `3.1 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def plural(number: int, word: str, many: str = "") -> str:
    """`1 row`, `2 rows`, `1,204 tokens`."""
    return f"{number:,} {word if number == 1 else many or f'{word}s'}"


def number(value: float | None, digits: int = 3) -> str:
    """A loss with `digits` places; `-` for unknown or not finite."""
    if not isinstance(value, int | float) or value - value != 0:
        return "-"
    return f"{value:.{digits}f}"


def rate(value: float | None) -> str:
    """A learning rate: `1.9e-04`; `-` for unknown."""
    return f"{value:.1e}" if isinstance(value, int | float) else "-"
