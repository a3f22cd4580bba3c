"""Splits rows into training and evaluation rows while they stream: an exact share that stays where it is as rows are appended.

The side of a row depends on the seed and on the rows before it, never on those behind it. In each file the rows of one
stratum are cut into consecutive blocks of on average 1/share rows, and of each block one row, chosen by a hash, is for
evaluation: the share is exact to one row at every point.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Literal

from nothing_tune.data.rows import Row
from nothing_tune.errors import Problem, UsageError

Side = Literal["train", "eval"]

COLUMNS = 20
"""Columns that an error names."""


@dataclass
class _Run:
    """The units of one stratum in one file: how many there were, the block they are in, and the one of it that is held out."""

    name: str
    index: int
    block: int
    start: int
    end: int
    pick: int


class Splitter:
    """Decides row by row; one splitter for all training rows, in their order.

    The first file alone has its share from its first row on, so that two rows already make one of each side; every other
    file begins somewhere inside a block, which its name decides, so that of many small files a share is held out.

    Args:
        share: Share of the rows that is for evaluation, 0 up to but not 1; 0 is none.
        seed: Another seed chooses other rows.
        group_by: Column whose equal values keep rows together: the group is counted instead of its rows, and its first
            row decides. A row without the column (see `lacks`) is a group of its own.
        stratify_by: Column of whose every value the share is held out; the rows without it are divided as one more value.
    """

    def __init__(
        self, share: float, seed: int = 42, group_by: str | None = None, stratify_by: str | None = None
    ) -> None:
        self._share = Fraction(str(share))
        if not 0 <= self._share < 1:
            raise ValueError(f"a share is from 0 up to 1, this is {share}")
        self._seed, self._group_by, self._stratify_by = seed, group_by, stratify_by
        self._groups: dict[bytes, Side] = {}
        self._runs: dict[tuple[int, str], _Run] = {}
        self._first: int | None = None
        self._units = 0
        self._forced = self._hash("first") % 2

    def side(self, row: Row) -> Side:
        """The side of the next row."""
        if not self._share:
            return "train"
        if self._group_by is None or lacks(row.value, self._group_by):
            return self._decide(row)
        mark = hashlib.blake2b(_text(row.value[self._group_by]).encode(), digest_size=16).digest()
        if mark not in self._groups:
            self._groups[mark] = self._decide(row)
        return self._groups[mark]

    def _decide(self, row: Row) -> Side:
        if self._first is None:
            self._first = row.file
        stratum = ""
        if self._stratify_by:
            stratum = _text(None if lacks(row.value, self._stratify_by) else row.value[self._stratify_by])
        run = self._runs.get((row.file, stratum))
        if run is None:
            run = self._runs[row.file, stratum] = self._begin(row, stratum)
        if row.file == self._first:
            self._force(run)
        while run.index >= run.end:
            run.block += 1
            self._enter(run)
        side: Side = "eval" if run.index == run.pick else "train"
        run.index += 1
        return side

    def _begin(self, row: Row, stratum: str) -> _Run:
        name = json.dumps([stratum] if row.file == self._first else [stratum, row.name])
        start = 0 if row.file == self._first else self._hash(name, "start") % 2**20
        run = _Run(name, start, int(start * self._share), 0, 0, 0)
        self._enter(run)
        return run

    def _enter(self, run: _Run) -> None:
        """Sets the bounds of the block, and the unit of it that is held out."""
        run.start, run.end = self._bound(run.block), self._bound(run.block + 1)
        run.pick = run.start + self._hash(run.name, str(run.block)) % (run.end - run.start)

    def _bound(self, block: int) -> int:
        """The first unit of a block: the smallest n with n * share >= block."""
        return -(-block * self._share.denominator // self._share.numerator)

    def _force(self, run: _Run) -> None:
        """Of the first two units of the first file exactly one is held out: its first block's pick is moved there, or away."""
        if self._units < 2:
            if self._units == self._forced:
                run.pick = run.index
            elif run.pick == run.index:
                run.pick = run.index + 1 + self._hash(run.name, "other") % (run.end - run.index - 1)
            self._units += 1

    def _hash(self, *parts: str) -> int:
        text = "\0".join((str(self._seed), *parts))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def lacks(value: Mapping[str, Any], column: str) -> bool:
    """Whether a canonical row has no such column, or nothing in it: no value, or the text of an empty cell."""
    return value.get(column) in (None, "")


def check_columns(rows: Sequence[Mapping[str, Any]], group_by: str | None, stratify_by: str | None) -> None:
    """Refuses columns to split by that no row has.

    Args:
        rows: Canonical rows that were looked at; without any, nothing is told.
        group_by: As `Splitter` takes it.
        stratify_by: As `Splitter` takes it.

    Raises:
        UsageError: Names the columns that there are. Its problems have the keys `data.group_by` and `data.stratify_by`.
    """
    have = list(dict.fromkeys(str(name) for row in rows for name in row))
    problems = []
    for key, column in (("data.group_by", group_by), ("data.stratify_by", stratify_by)):
        if column is None or not rows or not all(lacks(row, column) for row in rows):
            continue
        holds = "has anything in" if column in have else "has"
        shown = ", ".join(have[:COLUMNS]) + (f" and {len(have) - COLUMNS} more" if len(have) > COLUMNS else "")
        near = get_close_matches(column, [name for name in have if name != column], n=1, cutoff=0.6)
        cure = f"did you mean {near[0]}? " if near else ""
        what = f"{key}: no row that was looked at {holds} the column {column!r}"
        problems.append(Problem(what, key, hint=f"{cure}the columns are {shown}"))
    if problems:
        raise UsageError(*problems)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
