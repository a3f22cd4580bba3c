"""What the hours of a run cost: every known price, cheapest first. Pure: the date of today is given, if at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.plan.speed import Speed
from nothing_tune.recipe.providers import ANY_GPU, Provider

STALE_MONTHS = 6
"""A price that is older may have changed: prices of GPU hours move several times a year."""


@dataclass(frozen=True)
class Cost:
    """What a run costs at one price.

    Attributes:
        provider: Name of the provider, such as `modal`; `own` for your own GPU or price.
        tier: How the hour is sold, such as `on-demand`, `secure`, `community`, `market` or `own`.
        usd_per_hour: US dollars for an hour of one GPU.
        gpus: GPUs that are paid for: the processes, or more where they are only rented together.
        usd: US dollars of the run.
        low: The same if the run takes the fewest hours that are likely.
        high: The same if it takes the most.
        source: Where the price was read.
        as_of: When, YYYY-MM-DD; None where the source has no date.
        stale: Whether that is longer ago than `STALE_MONTHS`; None where one of the dates is unknown.
        note: What to know of this price; empty for nothing.
    """

    provider: str
    tier: str
    usd_per_hour: float
    gpus: int
    usd: float
    low: float
    high: float
    source: str
    as_of: str | None
    stale: bool | None = None
    note: str = ""


def prices(
    providers: Iterable[Provider],
    gpu_name: str,
    hours: Speed | tuple[float, float, float],
    processes: int,
    own: Mapping[str, Any] | None = None,
    today: str | None = None,
) -> list[Cost]:
    """What a run on a GPU costs at each price that is known of it, cheapest first; a provider without a price of it is left out.

    Args:
        providers: As `recipe.providers.providers` reads them.
        gpu_name: Name of the GPU's layer, such as `l4`.
        hours: The run's speed, or its hours: expected, the fewest and the most that are likely.
        processes: GPUs that train together, at least 1.
        own: The recipe's values: `launch.usd_per_hour` is the user's own price of one GPU's hour, and replaces that of `own`.
        today: Date of today, YYYY-MM-DD, which tells which prices are old; None tells of none.
    """
    expected, low, high = hours if isinstance(hours, tuple) else (hours.hours, hours.hours_low, hours.hours_high)
    yours = ((own or {}).get("launch") or {}).get("usd_per_hour")
    out = []
    for provider in providers:
        for price in provider.prices:
            if price.gpu not in (gpu_name, ANY_GPU):
                continue
            hourly, source, as_of, old = price.usd_per_hour, price.source, price.as_of, stale(price.as_of, today)
            if provider.name == "own" and yours is not None:
                hourly, source, as_of, old = float(yours), "launch.usd_per_hour", None, False
            gpus = math.ceil(processes / price.least) * price.least
            usd, least, most = (hourly * gpus * h for h in (expected, low, high))
            out.append(Cost(provider.name, price.tier, hourly, gpus, usd, least, most, source, as_of, old, price.note))
    return sorted(out, key=lambda cost: (cost.usd, cost.provider, cost.tier))


def stale(as_of: str | None, today: str | None) -> bool | None:
    """Whether a price of the date `as_of` is more than `STALE_MONTHS` old on the day `today` (both YYYY-MM-DD, or YYYY-MM);
    None where one of them is unknown."""
    if not as_of or not today:
        return None
    (year, month, day), (now_year, now_month, now_day) = _date(as_of), _date(today)
    months = (now_year - year) * 12 + now_month - month
    return months > STALE_MONTHS or (months == STALE_MONTHS and now_day > day)


def _date(text: str) -> tuple[int, int, int]:
    year, month, *day = (int(part) for part in text.split("-"))
    return year, month, day[0] if day else 31
