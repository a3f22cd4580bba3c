"""Curves as inline SVG: lines, axes with round numbers, and the last value written at a line's end. No script, no network.

Colours are CSS variables of the page (`--c0`, `--c1`, ..., `--ink`, `--faint`), so that one drawing fits light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

COLOURS = 6
"""Colours that the page has for lines."""
LEFT, RIGHT, TOP, BOTTOM = 52, 84, 12, 24
"""Margins, in units of the drawing."""
APART = 15
"""Least distance of two labels at the right."""


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: What is written at its end; empty writes its last value alone.
        points: `(step, value)`, ascending by step.
        colour: Number of its colour, from 0.
        dots: Whether its points are drawn, as for values that are measured seldom.
        marked: Steps at which a ring is drawn.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    dots: bool = False
    marked: tuple[float, ...] = ()


def chart(
    title: str, series: Sequence[Series], *, width: int = 860, height: int = 260, marks: Sequence[float] = ()
) -> str:
    """An SVG of some lines over steps; empty where no line has two points or more, or one that is drawn as a dot.

    Args:
        title: For those who cannot see it.
        series: The lines.
        width: Units of the drawing; it is as wide as the page lets it.
        height: Units of the drawing.
        marks: Steps at which a faint vertical line is drawn, such as resumes.
    """
    drawn = [s for s in (_finite(s) for s in series) if len(s.points) > 1 or (s.dots and s.points)]
    if not drawn or not any(len(s.points) > 1 for s in drawn):
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    x_ticks = ticks(min(0.0, *xs), max(xs), 6)
    y_ticks = ticks(_floor(ys), max(ys), 5)
    x_low, x_high = min(0.0, *xs), max(*xs, 1e-12)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    y_high = y_high if y_high > y_low else y_low + 1

    def x_of(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (width - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return height - BOTTOM - (y - y_low) / (y_high - y_low) * (height - TOP - BOTTOM)

    right, floor = width - RIGHT, height - BOTTOM
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for y in y_ticks:
        out.append(f'<path class="grid" d="M{LEFT} {y_of(y):.1f}H{right}"/>')
        out.append(f'<text class="tick" x="{LEFT - 8}" y="{y_of(y) + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in x_ticks:
        if x <= x_high:
            out.append(f'<text class="tick" x="{x_of(x):.1f}" y="{floor + 17}" text-anchor="middle">{number(x)}</text>')
    out += [f'<path class="mark" d="M{x_of(x):.1f} {TOP}V{floor}"/>' for x in marks if x_low < x < x_high]
    for s in drawn:
        path = "".join(f"{'L' if n else 'M'}{x_of(x):.1f} {y_of(y):.1f}" for n, (x, y) in enumerate(s.points))
        out.append(f'<path class="line c{s.colour % COLOURS}" d="{path}"/>')
        for x, y in s.points if s.dots else ():
            ring = " ring" if x in s.marked else ""
            said = f"{s.name} {number(y)} at step {number(x)}".strip()
            dot = f'<circle class="dot c{s.colour % COLOURS}{ring}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="{4.5 if ring else 2.6}">'
            out.append(f"{dot}<title>{escape(said)}</title></circle>")
    for s, at in zip(drawn, _apart([y_of(s.points[-1][1]) for s in drawn], TOP, floor), strict=True):
        said = f"{s.name} {number(s.points[-1][1])}".strip()
        out.append(f'<text class="end c{s.colour % COLOURS}" x="{right + 8}" y="{at + 4:.1f}">{escape(said)}</text>')
    return "".join([*out, "</svg>"])


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that hold `low` to `high`, ascending."""
    if not high > low:
        low, high = (low - abs(low) * 0.1 or -1.0, high + abs(high) * 0.1 or 1.0) if low else (0.0, 1.0)
    rough = (high - low) / max(count - 1, 1)
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def number(value: float) -> str:
    """A number in few characters: `0.705`, `2,034`, `1.5e-4`, `40.9k`, `3.2M`."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= least:
            return f"{value / ({'G': 1e9, 'M': 1e6, 'k': 1e3}[unit]):.3g}{unit}"
    return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"


def _finite(one: Series) -> Series:
    points = tuple((x, y) for x, y in one.points if x - x == 0 and y - y == 0)
    return Series(one.name, points, one.colour, one.dots, one.marked)


def _floor(ys: Sequence[float]) -> float:
    """Where the axis begins: at 0 unless the values stay far above it."""
    low, high = min(ys), max(ys)
    return low if low < 0 or (high - low) < 0.3 * high else 0.0


def _apart(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """Places of labels, moved so that no two overlap, in the order they were given."""
    order = sorted(range(len(places)), key=lambda n: places[n])
    out = list(places)
    for before, n in pairwise(order):
        out[n] = max(out[n], out[before] + APART)
    if order and out[order[-1]] > bottom:
        out[order[-1]] = bottom
        for after, n in pairwise(reversed(order)):
            out[n] = min(out[n], out[after] - APART)
    return [max(y, top) for y in out]
