"""The rows of a recipe before they are tokenised: how many tokens each has, told by its bytes. Pure."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from nothing_tune.cli.init.data import Data
from nothing_tune.plan import Plan
from nothing_tune.plan.rows import COUNTED, GIVEN, Rows
from nothing_tune.recipe.defaults import BYTES_A_TOKEN as CAREFUL

BYTES_A_TOKEN = 4.0
"""UTF-8 bytes of a token in the mean: about 4 characters of English (OpenAI's help page on tokens, 2024)."""
BINS = 64
"""Bins of lengths, about; none is narrower than 8 tokens."""


def rows(data: Data, held: Any, plan: Plan) -> Rows:
    """What is known of the rows of `plan` by the bytes of those that were read; unknown where none were. The longest, which
    decides the memory, is told on the careful side.

    Args:
        data: The data as it was looked at.
        held: The answer to the question for validation: a share, a source, or None.
    """
    if not data.rows:
        return Rows()
    share = held if isinstance(held, float) else 0.0
    out = round(data.rows * share)
    source, train = (GIVEN if data.about else COUNTED), data.rows - out
    known = Rows(source, train=train, eval=out if isinstance(held, float) or held is None else None)
    limit, packed = plan.training.get("max_length"), bool(plan.training.get("packing"))
    tokens = sorted(max(1, round(n / BYTES_A_TOKEN)) for n in data.lengths)
    if not tokens or train < 1:
        return known
    most = int(limit) if limit else math.ceil(max(data.lengths) / CAREFUL)
    total = round(sum(min(n, most) for n in tokens) / len(tokens) * train)
    sequences = math.ceil(total / most) if packed else None if plan.data.get("truncation") == "split" else train
    return Rows(
        source=known.source,
        train=train,
        eval=known.eval,
        sequences=sequences,
        tokens=total,
        longest=most if packed else min(math.ceil(max(data.lengths) / CAREFUL), most),
        lengths=_bins(tokens, train / len(tokens)),
    )


def _bins(tokens: list[int], times: float) -> tuple[tuple[int, int, int], ...]:
    """`((low, high, rows), ...)` of sorted lengths, each row counted `times`; empty bins are left out."""
    width = max(8, math.ceil(tokens[-1] / BINS))
    counted = Counter(n // width for n in tokens)
    found = ((b * width, (b + 1) * width, round(n * times)) for b, n in sorted(counted.items()))
    return tuple((max(low, 1), high, n) for low, high, n in found if n)
