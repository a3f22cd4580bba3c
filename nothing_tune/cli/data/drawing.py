"""Small drawings made of characters: bars, a histogram of lengths, numbers and names that fit. Plain functions of text."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from nothing_tune.cli import console
from nothing_tune.cli.console import Ink

BLOCK, TRACE = "▇", "▏"
"""What bars are made of, and what stands for less than half of it; a line of pixels stays free between two bars."""
WIDEST = 120
"""Columns that a page takes at most, on however wide a terminal."""
GAP = 2
"""From so many empty bins in a row a histogram draws one line for them."""
MOST_VALUES = 12
"""Values of a field that are drawn; the rest is one line."""
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def columns() -> int:
    """Columns of a page: those of the terminal, at most `WIDEST`; `PIPE_WIDTH` where the output is no terminal."""
    return min(console.width() or console.PIPE_WIDTH, WIDEST)


def bar(share: float, room: int) -> str:
    """A bar of `share` (0 to 1) of `room` columns; never empty for more than nothing."""
    full = round(min(max(share, 0.0), 1.0) * room)
    return BLOCK * full if full or share <= 0 else TRACE


def count(number: int | float | None) -> str:
    """`12,345`; a mean with one place; `-` for unknown."""
    if number is None:
        return "-"
    return f"{number:,.1f}" if isinstance(number, float) else f"{number:,}"


def percent(share: float | None) -> str:
    """`45 %`, `0.6 %`, `<0.1 %`; `-` for unknown."""
    if share is None:
        return "-"
    hundred = share * 100
    if 0 < hundred < 0.1:
        return "<0.1 %"
    if 99.5 <= hundred < 100:
        return f"{min(hundred, 99.9):.1f} %"
    return f"{hundred:.1f} %" if 0 < hundred < 9.95 else f"{hundred:.0f} %"


def short(name: str, room: int | None) -> str:
    """A path, made to fit by its end, which tells most: `…/level/rows.jsonl:12`; control characters are taken out."""
    text = console.printable(console.near(name)).replace("\n", " ")
    if room is None or len(text) <= room:
        return text
    return "…" + text[-max(room - 1, 1) :]


def one_line(text: str, room: int) -> str:
    """The beginning of a row's text in one line of `room` columns: spaces for line breaks, no control characters."""
    flat = " ".join(harmless(text).split())
    return flat if wide(flat) <= room else fit(flat, room - 1) + "…"


def harmless(text: str) -> str:
    """`text` with control characters and marks of writing direction as visible signs; line breaks and tabs stay."""
    out = []
    for sign in text:
        code = ord(sign)
        if sign in "\n\t":
            out.append(sign)
        elif code < 0x20 or 0x7F <= code < 0xA0 or sign in _BIDI:
            out.append(f"<U+{code:04X}>")
        else:
            out.append(sign)
    return "".join(out)


def wide(text: str) -> int:
    """Columns that `text` takes: two for each wide East Asian sign and emoji, none for a mark that combines."""
    return sum(_wide(sign) for sign in text)


def fit(text: str, room: int) -> str:
    """As much of the beginning of `text` as `room` columns hold."""
    used = 0
    for index, sign in enumerate(text):
        used += _wide(sign)
        if used > room:
            return text[:index]
    return text


def pad(text: str, room: int) -> str:
    """`text` cut and filled up to `room` columns."""
    text = text if wide(text) <= room else fit(text, room - 1) + "…"
    return text + " " * (room - wide(text))


def _wide(sign: str) -> int:
    if sign.isascii():
        return 1
    if unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def histogram(bins: Sequence[Sequence[int]], max_length: int | None, room: int, paint: Ink) -> list[str]:
    """One line a bin: its tokens, a bar, its rows. What is longer than `max_length` is yellow, below a line that says so.

    Args:
        bins: `[low, high, rows]`, ascending: rows of `low` tokens or more, and fewer than `high`.
        room: Columns of a line.
    """
    most = max((rows for _, _, rows in bins), default=0)
    if not most:
        return []
    left = max(len(count(high)) for _, high, _ in bins)
    right = max(len(count(rows)) for _, _, rows in bins)
    note = f"  ← max_length {count(max_length)}" if any(_holds(one, max_length) for one in bins) else ""
    length = max(room - 2 * left - right - 7 - len(note), 8)
    out: list[str] = []
    marked = False
    index = 0
    while index < len(bins):
        low, high, rows = bins[index]
        over = max_length is not None and low >= max_length
        if over and not marked:
            text = f" max_length {count(max_length)} "
            out.append(paint.warn(f"{'─' * (2 * left + 3)}{text}{'─' * max(length - len(text), 2)}"))
            marked = True
        empty = 0
        for a, _, n in bins[index:]:
            if n or (max_length is not None and not marked and a >= max_length):
                break
            empty += 1
        if empty >= GAP:
            out.append(paint.dim("…".rjust(left)))
            index += empty
            continue
        name = f"{count(low).rjust(left)} - {count(high - 1).rjust(left)}" if high - low > 1 else count(low).rjust(left)
        head = paint.dim(name.ljust(2 * left + 3))
        drawn = bar(rows / most, length)
        tint = paint.warn if over else paint.key
        line = f"{head}  {tint(drawn)}{' ' * (length - len(drawn))}  {count(rows).rjust(right)}"
        if _holds(bins[index], max_length):
            line += paint.warn(note)
            marked = True
        out.append(line)
        index += 1
    return out


def _holds(one: Sequence[int], max_length: int | None) -> bool:
    """Whether `max_length` lies inside a bin that holds rows on both sides of it."""
    return max_length is not None and bool(one[2]) and one[0] < max_length < one[1] - 1


def values(counts: Mapping[str, int], room: int, paint: Ink) -> list[str]:
    """One line a value of a field: the value, a bar, its rows and their share; the most frequent first, levels in their order.

    The values beyond `MOST_VALUES` share a line without a bar. Rows without a value, which `counts` has under the empty name, come
    last.
    """
    total = sum(counts.values())
    if not total:
        return []
    items = sorted(((name, rows) for name, rows in counts.items() if name), key=lambda item: -item[1])
    shown, rest = items[:MOST_VALUES], items[MOST_VALUES:]
    if not rest and all(len(name) <= 3 for name in counts):
        shown.sort(key=lambda item: (len(item[0]) if item[0].isdigit() else 0, item[0]))  # A1 A2 B1, 1 2 10, de en it
    most = max([rows for _, rows in shown] + [counts.get("", 0)])
    lines = [(console.printable(name).replace("\n", " "), rows, paint.key, bar) for name, rows in shown]
    lines += [(f"{count(len(rest))} more", sum(rows for _, rows in rest), paint.dim, _no_bar)] if rest else []
    lines += [("(none)", counts[""], paint.dim, bar)] if counts.get("") else []
    left = min(max(wide(name) for name, *_ in lines), 24)
    right = max(len(count(rows)) for _, rows, *_ in lines)
    length = max(min(room - left - right - 12, 32), 8)
    out = []
    for name, rows, tint, draw in lines:
        drawn = draw(rows / most, length)
        share = percent(rows / total).rjust(6)
        out.append(
            f"{pad(name, left)}  {tint(drawn)}{' ' * (length - len(drawn))}  {count(rows).rjust(right)}  {paint.dim(share)}"
        )
    return out


def _no_bar(share: float, room: int) -> str:
    return ""
