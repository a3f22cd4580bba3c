"""Intervals: of ratios of sums by a bootstrap over rows, paired for differences; of shares by Wilson's formula.

What belongs to one row (its tokens, its answers) is never torn apart: rows are what is drawn (cluster bootstrap). Every mean here is
a ratio of two sums over rows: loss is sum(-log p) / sum(tokens), a mean length is sum(tokens) / sum(answers).

    percentile bootstrap      Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13
    widened for few rows      Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American Statistician 69(4): the
                              expanded percentile interval; the ends are those of Student's t for n - 1 degrees of freedom
    share                     Wilson 1927, Journal of the American Statistical Association 22, with the number of independent answers
                              (Kish 1965, design effect) where a row has several
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from nothing_tune.outputs.evaluation import Metric

LEVEL = 0.95
RESAMPLES = 2000
SEED = 42
DRAWN_TOGETHER = 4_000_000
"""Numbers drawn at once: bounds the memory of many rows."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Form = Callable[[Numbers], Numbers]


def plain(values: Numbers) -> Numbers:
    """The value itself."""
    return values


def exponential(values: Numbers) -> Numbers:
    """exp of each; infinite where it does not fit."""
    with np.errstate(over="ignore"):
        return np.exp(values)


def ratio(top: Numbers, bottom: Numbers, form: Form = plain) -> Metric:
    """`form(sum(top) / sum(bottom))` with its bootstrap interval.

    Args:
        top: One number a row.
        bottom: The same, 0 or more: its tokens, bytes or answers. Rows where it is 0 are left out.
        form: What is made of the ratio, monotonic.
    """
    return difference(top, bottom, np.zeros(0), np.zeros(0), form)


def difference(top: Numbers, bottom: Numbers, top_base: Numbers, bottom_base: Numbers, form: Form = plain) -> Metric:
    """`form(ratio) - form(ratio of the base)` on the same rows, its interval from rows drawn as pairs; without base the first alone.

    Rows that either side lacks (its `bottom` is 0) are left out.
    """
    paired = len(top_base) > 0
    kept = (bottom > 0) & (bottom_base > 0) if paired else bottom > 0
    parts = [p[kept] for p in ([top, bottom, top_base, bottom_base] if paired else [top, bottom])]
    rows = int(kept.sum())
    if not rows:
        return Metric(None, None, None, 0)
    value = _value([p.sum(keepdims=True) for p in parts], form)[0]
    if rows < 2 or not math.isfinite(value):
        return Metric(_finite(value), None, None, rows)
    chance = np.random.default_rng(SEED)
    drawn: list[Numbers] = []
    each = max(DRAWN_TOGETHER // rows, 1)
    for start in range(0, RESAMPLES, each):
        picks = chance.integers(0, rows, (min(each, RESAMPLES - start), rows))
        drawn.append(_value([p[picks].sum(axis=1) for p in parts], form))
    tail = (1 - expanded(LEVEL, rows)) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Metric(_finite(value), _finite(low), _finite(high), rows)


def share(top: Numbers, bottom: Numbers) -> Metric:
    """The share sum(top) / sum(bottom) with Wilson's interval; `n` counts answers.

    Args:
        top: Answers of each row that have the property.
        bottom: Answers of each row.
    """
    kept = bottom > 0
    top, bottom = top[kept], bottom[kept]
    answers, rows = float(bottom.sum()), len(bottom)
    if not rows:
        return Metric(None, None, None, 0)
    value = float(top.sum()) / answers
    independent = answers
    if answers > rows:
        spread = float(((top - value * bottom) ** 2).sum()) / answers**2 * rows / max(rows - 1, 1)
        alone = value * (1 - value) / answers
        independent = answers / max(spread / alone, 1.0) if alone and spread else float(rows)
        independent = max(min(independent, answers), 1.0)
    low, high = wilson(value, independent)
    return Metric(value, low, high, round(answers))


def wilson(value: float, count: float) -> tuple[float, float]:
    """Wilson's interval of a share `value` (0 to 1) of `count` independent answers at `LEVEL`."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    middle = (value + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(value * (1 - value) / count + z * z / (4 * count * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def expanded(level: float, rows: int) -> float:
    """The level at which a percentile interval of `rows` rows is drawn so that it holds at `level`."""
    if rows < 2:
        return level
    reach = math.sqrt(rows / (rows - 1)) * student(0.5 + level / 2, rows - 1)
    return 2 * NormalDist().cdf(reach) - 1


def student(share_: float, freedom: int) -> float:
    """The point below which Student's t with `freedom` degrees of freedom lies with probability `share_` (0.5 up to 1)."""
    if freedom > 1000:
        return NormalDist().inv_cdf(share_)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    low, high = 0.0, 1.0

    def below(point: float) -> float:
        grid = np.linspace(0.0, math.atan(point / math.sqrt(freedom)), 2001)  # x = sqrt(freedom) tan(angle)
        heights = np.cos(grid) ** (freedom - 1)
        return 0.5 + scale * math.sqrt(freedom) * float(np.trapezoid(heights, grid))

    while below(high) < share_:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < share_ else (low, middle)
    return high


def _value(sums: list[Numbers], form: Form) -> Numbers:
    with np.errstate(invalid="ignore", divide="ignore"):
        out = form(sums[0] / sums[1])
        return out - form(sums[2] / sums[3]) if len(sums) == 4 else out


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
