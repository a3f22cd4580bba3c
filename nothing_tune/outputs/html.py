"""Pieces of a page: escaped text, tables, facts, and numbers as people read them. Everything that is written goes through here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any


def text(value: Any) -> str:
    """`value` as text of a page: markup, quotes and what cannot be printed are harmless in it."""
    plain = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))
    return escape(plain, quote=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A table; cells are markup already, heads are text. Columns `right` hold numbers. Empty without rows."""
    body = []
    for row in rows:
        if len(row) == 1:
            body.append(f'<tr><td class="section" colspan="{len(heads)}">{row[0]}</td></tr>')
            continue
        cells = "".join(f'<td class="n">{c}</td>' if i in right else f"<td>{c}</td>" for i, c in enumerate(row))
        body.append(f"<tr>{cells}</tr>")
    if not body:
        return ""
    head = "".join(
        f'<th class="n">{text(h)}</th>' if i in right else f"<th>{text(h)}</th>" for i, h in enumerate(heads)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def facts(known: Mapping[str, str | None]) -> str:
    """A list of names and values (markup); what has none is left out."""
    pairs = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in known.items() if value)
    return f'<dl class="facts">{pairs}</dl>' if pairs else ""


def section(title: str, *parts: str, key: str = "") -> str:
    """A part of the page with its heading; empty where none of its parts says anything."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<section id="{text(key or title.lower().replace(" ", "-"))}">\n<h2>{text(title)}</h2>\n{body}\n</section>'
        if body
        else ""
    )


def code(value: Any) -> str:
    """A value as it is written in files."""
    return f"<code>{text(value)}</code>"


def quiet(value: Any) -> str:
    """What explains."""
    return f'<span class="quiet">{text(value)}</span>' if value else ""


def count(value: float | None) -> str:
    """`1,204`; `-` for unknown."""
    return "-" if value is None else f"{value:,.0f}"


def loss(value: float | None) -> str:
    """A loss with three places; `-` for unknown."""
    return "-" if value is None or value - value != 0 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """`27 s`, `38 min`, `4 h 10 min`, `2 d 3 h`; `-` for unknown."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def size(value: float | None) -> str:
    """Bytes: `812 B`, `843.3 MiB`, `1.4 GiB`; `-` for unknown."""
    if value is None:
        return "-"
    left = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if left < 1024 or unit == "GiB":
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:,.1f} {unit}"
        left /= 1024
    raise AssertionError


def moment(seconds: float | None) -> str:
    """`2026-11-21 19:30 UTC`; empty for unknown."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC" if isinstance(seconds, int | float) else ""


def plural(number: int, word: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {word if number == 1 else f'{word}s'}"
