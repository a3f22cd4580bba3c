"""What is known about the rows of a run when it is planned: tokenised, counted, given, or nothing. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOKENISED, COUNTED, GIVEN, UNKNOWN = "tokenised", "counted", "given", "unknown"


@dataclass(frozen=True)
class Rows:
    """The rows of a run. None is unknown.

    Attributes:
        source: `tokenised` (prepared by the engine as a run would), `counted` (read without a tokenizer), `given` (--rows) or
            `unknown`.
        train: Rows trained on, one epoch.
        eval: Rows evaluated on; 0 for none.
        sequences: Training sequences of one epoch: the rows, or what packing and splitting make of them.
        tokens: Training tokens of one epoch, padding not counted.
        supervised: Of these, the ones whose prediction is learned.
        longest: Tokens of the longest training sequence, after cutting.
        lengths: `((low, high, rows), ...)`, ascending: training rows of low <= tokens < high, before cutting; empty is unknown.
        findings: What `tune data inspect` found: mappings of `severity` (error, warning, advice), `what`, `hint`, `key`, `rows`.
        report: The whole report of `tune data inspect`; None where nothing was tokenised.
    """

    source: str = UNKNOWN
    train: int | None = None
    eval: int | None = None
    sequences: int | None = None
    tokens: int | None = None
    supervised: int | None = None
    longest: int | None = None
    lengths: tuple[tuple[int, int, int], ...] = ()
    findings: tuple[Mapping[str, Any], ...] = ()
    report: Mapping[str, Any] | None = None

    def typical(self, micro: int, max_length: int | None, packed: bool, grouped: bool = False) -> int | None:
        """Tokens that a usual batch of `micro` rows is padded to: the mean of its longest row; None where lengths are unknown.

        With packing, or with one bin of rows, that is what every batch has. Rows above `max_length` count as that long. Where rows
        of like length come together (`grouped`, train_sampling_strategy group_by_length), hardly anything is padded: the mean
        length of a row, by the tokens where they are counted.
        """
        if packed:
            return self.longest or max_length
        if grouped:
            if self.tokens and (self.sequences or self.train):
                return max(1, round(self.tokens / (self.sequences or self.train or 1)))
            micro = 1
        rows = sum(count for _, _, count in self.lengths)
        if not rows:
            return None
        mean, below, longest = 0.0, 0, self.longest or max_length or math.inf
        for low, high, count in self.lengths:
            share = ((below + count) / rows) ** micro - (below / rows) ** micro
            mean += share * min((low + high - 1) / 2, longest)
            below += count
        return round(mean)


def of_report(report: Mapping[str, Any]) -> Rows:
    """The rows that the engine prepared, from the report of `tune data inspect`."""
    train, held = report["train"], report.get("eval") or {}
    limit, longest = report.get("max_length"), int(train["lengths"]["max"])
    cut = limit and report.get("truncation") in ("left", "right", "split")
    if report.get("packing") and limit:
        longest = int(limit)
    elif limit and (cut or longest > limit):
        longest = min(longest, int(limit))
    return Rows(
        source=TOKENISED,
        train=int(train["rows"]),
        eval=int(held.get("sequences") or held.get("rows") or 0),
        sequences=int(train["sequences"]),
        tokens=int(train["tokens"]),
        supervised=int(train["supervised_tokens"]),
        longest=longest,
        lengths=tuple((int(a), int(b), int(n)) for a, b, n in train.get("histogram") or ()),
        findings=tuple(report.get("findings") or ()),
        report=report,
    )
