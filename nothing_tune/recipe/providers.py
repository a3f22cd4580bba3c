"""Where GPUs are rented, and for how much: the files `recipes/providers/*.yaml`, read strictly. They are no layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from nothing_tune.errors import Place, Problem, RecipeError
from nothing_tune.recipe.library import PROVIDERS, library_root, names
from nothing_tune.recipe.reader import read_file

ANY_GPU = "any"
"""In place of a GPU's name: the price holds for every GPU."""
KEYS = ("name", "title", "good_for", "mind", "usd_per_hour_range", "prices")
RANGE_KEYS = ("low", "high", "source", "as_of")
PRICE_KEYS = ("gpu", "usd_per_hour", "tier", "least", "note", "source", "as_of")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")


@dataclass(frozen=True)
class Price:
    """What an hour of one GPU costs at a provider.

    Attributes:
        gpu: Name of the GPU's layer, such as `l4`, or `any`.
        usd_per_hour: US dollars, 0 or more.
        tier: How the hour is sold: `on-demand`, `secure`, `community`, `market`, `own`, ...
        source: Where the price was read.
        as_of: When it held, YYYY-MM-DD or YYYY-MM; None where the source has no date.
        least: GPUs that are only rented together, at least 1; the price is still that of one.
        note: What to know of it; empty for nothing.
    """

    gpu: str
    usd_per_hour: float
    tier: str
    source: str
    as_of: str | None
    least: int = 1
    note: str = ""


@dataclass(frozen=True)
class Provider:
    """Somewhere GPUs are rented.

    Attributes:
        name: Name of its file, such as `modal`.
        title: Its name as it writes it.
        prices: Its prices, as the file has them.
        good_for: What speaks for it, one line.
        mind: What to mind, one line.
        low: The lowest of its prices by a source that names no GPU, in US dollars an hour; None where there is none.
        high: The highest.
        range_source: That source; empty where there is none.
    """

    name: str
    title: str
    prices: tuple[Price, ...]
    good_for: str = ""
    mind: str = ""
    low: float | None = None
    high: float | None = None
    range_source: str = ""


@cache
def providers() -> tuple[Provider, ...]:
    """The providers of the library, by name. `RecipeError` as `read_provider`."""
    folder = library_root() / PROVIDERS
    return tuple(read_provider(folder / f"{name}.yaml") for name in names(PROVIDERS))


def read_provider(path: Path) -> Provider:
    """The provider in a file. `RecipeError` with every problem: unknown keys, prices below 0, GPUs that have no layer, ..."""
    values, keys, places = read_file(path)
    reading = _Reading(keys, places)
    reading.known(values, KEYS, "")
    name = reading.text(values, "name", "")
    if name and name != path.stem:
        reading.wrong("name", f"name is {name!r}, and the file is {path.name}", hint=f"write name: {path.stem}")
    span = values.get("usd_per_hour_range") or {}
    if not isinstance(span, dict):
        reading.wrong("usd_per_hour_range", "usd_per_hour_range is a mapping of low, high and source")
        span = {}
    reading.known(span, RANGE_KEYS, "usd_per_hour_range.")
    low, high = (reading.number(span, key, "usd_per_hour_range.") if span else None for key in ("low", "high"))
    if low is not None and high is not None and low > high:
        reading.wrong("usd_per_hour_range.low", f"usd_per_hour_range.low is {low:g}, above high, {high:g}")
    entries = values.get("prices") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        reading.wrong("prices", "prices is a list of mappings", hint="- {gpu: l4, usd_per_hour: 0.8, ...}")
        entries = []
    found = tuple(reading.price(entry, f"prices.{n}.") for n, entry in enumerate(entries))
    provider = Provider(
        name=name,
        title=reading.text(values, "title", ""),
        prices=found,
        good_for=reading.text(values, "good_for", "", needed=False),
        mind=reading.text(values, "mind", "", needed=False),
        low=low,
        high=high,
        range_source=reading.text(span, "source", "usd_per_hour_range.") if span else "",
    )
    if reading.problems:
        raise RecipeError(*reading.problems)
    return provider


class _Reading:
    """The problems of one file, with the places of its keys and values."""

    def __init__(self, keys: Mapping[str, Place], values: Mapping[str, Place]) -> None:
        self.keys, self.values = keys, values
        self.problems: list[Problem] = []

    def wrong(self, key: str, what: str, hint: str = "", at_key: bool = False) -> None:
        """Notes a problem at a key's value, at the key itself, or at what holds it where it is missing."""
        place = (self.keys if at_key else self.values).get(key) or self.values.get(key.rpartition(".")[0])
        self.problems.append(Problem(what, key, place or self.values.get("name"), hint=hint))

    def known(self, values: Mapping[str, Any], names_: tuple[str, ...], prefix: str) -> None:
        """Notes every key that is none of `names_`."""
        for key in values:
            if key not in names_:
                near = get_close_matches(key, names_, n=1)
                hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names_)}"
                self.wrong(f"{prefix}{key}", f"{prefix}{key} is not a key of a provider", hint, at_key=True)

    def text(self, values: Mapping[str, Any], key: str, prefix: str, needed: bool = True) -> str:
        """A text; empty after a problem, or where it may be missing and is."""
        value = values.get(key)
        if value is None and not needed:
            return ""
        if not isinstance(value, str) or not value.strip():
            self.wrong(
                f"{prefix}{key}", f"{prefix}{key} must be a text" if key in values else f"{prefix}{key} is missing"
            )
            return ""
        return " ".join(value.split())

    def number(self, values: Mapping[str, Any], key: str, prefix: str) -> float:
        """A number of 0 or more; 0 after a problem."""
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            what = "must be a number of US dollars" if key in values else "is missing"
            self.wrong(f"{prefix}{key}", f"{prefix}{key} {what}")
            return 0.0
        if not 0 <= value < float("inf"):
            self.wrong(f"{prefix}{key}", f"{prefix}{key} is {value:g}: a price is 0 or more")
            return 0.0
        return float(value)

    def price(self, entry: Mapping[str, Any], prefix: str) -> Price:
        """One price of the list."""
        self.known(entry, PRICE_KEYS, prefix)
        gpu = self.text(entry, "gpu", prefix)
        if gpu and gpu != ANY_GPU and gpu not in names("gpus"):
            near = get_close_matches(gpu, names("gpus"), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "tune list gpus shows all"
            self.wrong(f"{prefix}gpu", f"unknown GPU {gpu!r}", hint)
        as_of = entry.get("as_of")
        if as_of is not None and not (isinstance(as_of, str) and _DATE.fullmatch(as_of)):
            self.wrong(f"{prefix}as_of", f"{prefix}as_of is no date", hint='write it as "YYYY-MM-DD", or null')
            as_of = None
        least = entry.get("least", 1)
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            self.wrong(f"{prefix}least", f"{prefix}least must be a number of GPUs, at least 1")
            least = 1
        return Price(
            gpu=gpu,
            usd_per_hour=self.number(entry, "usd_per_hour", prefix),
            tier=self.text(entry, "tier", prefix),
            source=self.text(entry, "source", prefix),
            as_of=as_of,
            least=least,
            note=self.text(entry, "note", prefix, needed=False),
        )
