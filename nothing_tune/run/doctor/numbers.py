"""What a row of numbers does: its slope against its noise, its level in parts. Plain Python; a run logs thousands of numbers at most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeGuard


@dataclass(frozen=True)
class Trend:
    """A straight line through points, by least squares.

    Attributes:
        slope: Change of y per unit of x.
        error: Standard error of the slope; 0 where the points lie on the line.
        change: What the line does over the whole range of x, in units of y.
        noise: Standard deviation of the points around the line.
        count: Points.
    """

    slope: float
    error: float
    change: float
    noise: float
    count: int

    @property
    def t(self) -> float:
        """The slope in standard errors: between -2 and 2 it cannot be told from none. Infinite on a line without noise."""
        if self.error == 0:
            return 0.0 if self.slope == 0 else math.copysign(math.inf, self.slope)
        return self.slope / self.error


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """The line through `(x, y)`; None for fewer than three points or where all have one x."""
    n = len(points)
    if n < 3:
        return None
    mx, my = fmean(x for x, _ in points), fmean(y for _, y in points)
    sxx = sum((x - mx) ** 2 for x, _ in points)
    if sxx == 0:
        return None
    slope = sum((x - mx) * (y - my) for x, y in points) / sxx
    rest = sum((y - my - slope * (x - mx)) ** 2 for x, y in points)
    error = math.sqrt(rest / (n - 2) / sxx)
    change = slope * (max(x for x, _ in points) - min(x for x, _ in points))
    return Trend(slope, error, change, math.sqrt(rest / (n - 2)), n)


def third(values: Sequence[float], number: int) -> list[float]:
    """The first (0), middle (1) or last (2) third of `values`; never empty where `values` is not."""
    n = len(values)
    low, high = n * number // 3, n * (number + 1) // 3
    return list(values[low : max(high, low + 1)])


def level(values: Sequence[float]) -> float:
    """The median; NaN for none."""
    return median(values) if values else math.nan


def finite(value: object) -> TypeGuard[float]:
    """Whether `value` is a number, and neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
