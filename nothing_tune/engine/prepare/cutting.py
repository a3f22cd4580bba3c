"""What becomes of rows that are longer than `max_length` tokens: cut at the right or the left, split, or left out."""

from __future__ import annotations

from dataclasses import dataclass

from nothing_tune.engine.prepare.tokens import IGNORED, Encoded


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of one row.

    Attributes:
        parts: `(ids, labels)` of each training sequence that it gives; empty when it gives none.
        lost: Tokens that no part holds.
        lost_supervised: Of these the ones that were to be learned.
        answers: Answers of the assistant that are not whole any more.
        unsupervised: Parts that were left out because nothing in them is learned.
    """

    parts: list[tuple[list[int], list[int]]]
    lost: int = 0
    lost_supervised: int = 0
    answers: int = 0
    unsupervised: int = 0


def cut(row: Encoded, max_length: int | None, policy: str) -> Cut:
    """Applies `policy` to `row`; parts without anything to learn are left out.

    Args:
        row: A row of any length.
        max_length: Most tokens of a part; None for no limit.
        policy: `right` keeps the beginning, `left` the end, `split` everything in parts of `max_length`, `drop` leaves the row out.
    """
    length = len(row.ids)
    if max_length is None or length <= max_length:
        return _learned([(0, length)], row, Cut([]))
    if policy == "drop":
        return Cut([], length, _supervised(row, 0, length), 0)
    if policy == "split":
        pieces = [(start, min(start + max_length, length)) for start in range(0, length, max_length)]
        torn = sum(any(a < end < b for _, end in pieces) for a, b in row.answers)
        return _learned(pieces, row, Cut([], answers=torn))
    start, end = (0, max_length) if policy == "right" else (length - max_length, length)
    return _learned(
        [(start, end)],
        row,
        Cut(
            [],
            length - max_length,
            _supervised(row, 0, start) + _supervised(row, end, length),
            sum(a < start or b > end for a, b in row.answers),
        ),
    )


def _learned(pieces: list[tuple[int, int]], row: Encoded, found: Cut) -> Cut:
    parts = [(row.ids[a:b], row.labels[a:b]) for a, b in pieces]
    kept = [part for part in parts if part[1].count(IGNORED) < len(part[1])]
    return Cut(kept, found.lost, found.lost_supervised, found.answers, len(parts) - len(kept))


def _supervised(row: Encoded, start: int, end: int) -> int:
    labels = row.labels[start:end]
    return len(labels) - labels.count(IGNORED)
