"""Mixes sources by caps and weights: which rows of each are used, never one twice, and in what order they stand."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from fractions import Fraction

from nothing_tune.data.sources import Source


def amounts(counts: Sequence[int], sources: Sequence[Source]) -> list[int]:
    """How many rows of each source are used: up to its cap, and with weights as many of all as keep the shares.

    With weights w the total is the minimum over the sources of n / (w / sum(w)), so that the scarcest source is used up;
    each source gives its share of it, rounded down, and at least one row. A source without rows bounds nobody.

    Args:
        counts: Rows that each source has.
        sources: The sources, all or none with a weight.
    """
    capped = [n if s.max_rows is None else min(n, s.max_rows) for n, s in zip(counts, sources, strict=True)]
    weights = [Fraction(str(s.weight)) if s.weight is not None else None for s in sources]
    bounds = [n / w for n, w in zip(capped, weights, strict=True) if w is not None and n]
    if not bounds:
        return capped
    return [n if w is None else min(n, max(int(min(bounds) * w), 1)) for n, w in zip(capped, weights, strict=True)]


def choose(counts: Sequence[int], sources: Sequence[Source], seed: int = 42) -> list[tuple[int, int]]:
    """`(source, row)` of every row that is used, both from 0, interleaved evenly: any stretch holds the sources in their shares.

    A cap keeps the first rows of its source. A weight keeps those of the lowest hashes (of seed, source and row), so
    that most of them stay as rows are appended. The rows of one source keep their order.

    Args:
        counts: Rows that each source has.
        sources: The sources, all or none with a weight.
        seed: Another seed keeps other rows, where not all are.
    """
    used = amounts(counts, sources)
    kept: list[Sequence[int]] = []
    for number, (count, source, amount) in enumerate(zip(counts, sources, used, strict=True)):
        had = count if source.max_rows is None else min(count, source.max_rows)
        kept.append(range(had) if amount == had else _lowest(had, amount, f"{seed}\0{number}"))
    order = heapq.merge(
        *([((2 * j + 1) / (2 * len(rows)), n, row) for j, row in enumerate(rows)] for n, rows in enumerate(kept))
    )
    return [(number, row) for _, number, row in order]


def _lowest(count: int, amount: int, salt: str) -> list[int]:
    """The `amount` rows below `count` with the lowest hashes, in order."""
    start = hashlib.blake2b(salt.encode(), digest_size=8)

    def score(row: int) -> bytes:
        mine = start.copy()
        mine.update(row.to_bytes(8, "big"))
        return mine.digest()

    return sorted(heapq.nsmallest(amount, range(count), key=score))


def told(counts: Sequence[int], sources: Sequence[Source]) -> list[str]:
    """One line for each source: how many of its rows are used, their share of the whole, and what decided."""
    used = amounts(counts, sources)
    whole = sum(used) or 1
    lines = []
    for source, count, amount in zip(sources, counts, used, strict=True):
        rows = f"{amount:,} of {count:,} rows" if amount != count else f"{count:,} row{'' if count == 1 else 's'}"
        why = [f"weight {source.weight:g}"] if source.weight is not None else []
        why += [f"at most {source.max_rows:,}"] if source.max_rows is not None else []
        behind = f" ({', '.join(why)})" if why else ""
        lines.append(f"{source.label}: {rows}, {amount / whole:.1%}{behind}")
    return lines
