"""Figures of answers and losses put together: for all rows and for groups of them, beside the base's and as differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nothing_tune.engine.evaluate import statistics
from nothing_tune.outputs.evaluation import METRICS, Group, Metric, Metrics

MOST_GROUPS = 12
"""Groups of one kind that are kept, the largest."""
LATE = 4
"""From this turn on answers are one group."""

Numbers = statistics.Numbers
Pair = tuple[float, float]
"""What counts above and below the line: -log p and tokens, hits and answers."""


@dataclass(frozen=True)
class Unit:
    """What was measured of one answer, or of one row where answers cannot be told apart.

    Attributes:
        row: Number of its row: rows are what is drawn for intervals.
        turn: Which answer of its row, from 1; 0 where that cannot be told.
        calls: Whether the reference calls functions; None where that cannot be told.
        run: Metric -> pair, of the run.
        base: The same of the base; empty without it.
    """

    row: int
    turn: int
    calls: bool | None
    run: Mapping[str, Pair]
    base: Mapping[str, Pair]


def figures(units: Iterable[Unit]) -> tuple[Metrics, Metrics | None, Metrics | None]:
    """`(run, base, difference)` of some units; the last two None where no base was measured."""
    found = list(units)
    run: Metrics = {}
    base: Metrics = {}
    apart: Metrics = {}
    numbers = {row: place for place, row in enumerate(sorted({u.row for u in found}))}
    for name, fact in METRICS.items():
        source = _source(name)
        mine = [u for u in found if source in u.run]
        if not mine:
            continue
        form = statistics.exponential if name == "perplexity" else statistics.plain
        one: Callable[[Numbers, Numbers], Metric]
        if fact.form == "share" and all(u.run[source][1] == 1 and u.run[source][0] in (0, 1) for u in mine):
            one = statistics.share
        else:

            def one(top: Numbers, bottom: Numbers, form: statistics.Form = form) -> Metric:
                return statistics.ratio(top, bottom, form)

        sums = _sums(mine, [u.run[source] for u in mine], numbers)
        run[name] = one(*sums)
        if all(source in u.base for u in mine):
            theirs = _sums(mine, [u.base[source] for u in mine], numbers)
            base[name] = one(*theirs)
            apart[name] = statistics.difference(*sums, *theirs, form)
    return run, base or None, apart or None


def grouped(units: Sequence[Unit], names: Mapping[int, str]) -> list[Group]:
    """Groups of units by the name at their place, the largest first; empty where all are in one. Units without a name are left out."""
    sets: dict[str, list[Unit]] = {}
    for number, unit in enumerate(units):
        if number in names:
            sets.setdefault(names[number], []).append(unit)
    if len(sets) < 2:
        return []
    rows = {name: len({u.row for u in found}) for name, found in sets.items()}
    largest = sorted(sets, key=lambda n: (-rows[n], n))[:MOST_GROUPS]
    return [Group(name, rows[name], *figures(sets[name])) for name in largest]


def groups(
    units: Sequence[Unit], files: Sequence[str], columns: Sequence[str | None], column: str
) -> dict[str, list[Group]]:
    """Kind -> groups: by file, by a column's value, by turn, and by whether functions are called.

    Args:
        files: File of each row.
        columns: Value of the column `column` in each row.
    """
    turns = {n: f"{LATE} and later" if u.turn >= LATE else str(u.turn) for n, u in enumerate(units) if u.turn}
    kinds = {
        "file": {n: files[u.row] for n, u in enumerate(units)},
        f"column {column}": {n: value for n, u in enumerate(units) if (value := columns[u.row]) is not None}
        if column
        else {},
        "turn": turns,
        "answer": {n: "a function call" if u.calls else "words" for n, u in enumerate(units) if u.calls is not None},
    }
    found = {kind: grouped(units, names) for kind, names in kinds.items()}
    if "turn" in found:
        found["turn"] = sorted(found["turn"], key=lambda g: g.name)
    return {kind: some for kind, some in found.items() if some}


def lost(nll: float, tokens: int, size: int) -> dict[str, Pair]:
    """The pairs of a loss: of -log p in nats over tokens, and in bits over the bytes of their text."""
    out = {"loss": (nll, float(tokens))}
    if size:
        out["bits_per_byte"] = (nll / math.log(2), float(size))
    return out


def counted(measures: Mapping[str, float]) -> dict[str, Pair]:
    """Each measure as one answer."""
    return {name: (value, 1.0) for name, value in measures.items()}


def _source(name: str) -> str:
    return "loss" if name == "perplexity" else name


def _sums(units: Sequence[Unit], pairs: Sequence[Pair], numbers: Mapping[int, int]) -> tuple[Numbers, Numbers]:
    places = np.array([numbers[u.row] for u in units], dtype=np.int64)
    size = len(numbers)
    values: Any = np.array(pairs, dtype=np.float64)
    return (
        np.bincount(places, weights=values[:, 0], minlength=size),
        np.bincount(places, weights=values[:, 1], minlength=size),
    )
