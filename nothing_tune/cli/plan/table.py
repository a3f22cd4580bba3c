"""The table of `tune plan --fits`: a line for each GPU, what fits first, and of that the cheapest."""

from __future__ import annotations

from collections.abc import Sequence

from nothing_tune.cli import console
from nothing_tune.cli.console import Ink
from nothing_tune.cli.plan.page import hours, nothing_fits
from nothing_tune.errors import TuneError
from nothing_tune.plan.cost import Cost
from nothing_tune.plan.forecast import DOES_NOT_FIT, FITS, Forecast
from nothing_tune.plan.memory.notes import gib

Found = tuple[str, Forecast | None, TuneError | None]
"""A GPU's name, its forecast, and where there is none, why the recipe cannot be planned for it."""


def lines(found: Sequence[Found], paint: Ink) -> list[str]:
    """The table of `--fits`: a line a GPU, the cheapest price of each provider, and below it the change that would make it fit.

    Args:
        found: The GPU's name, its forecast, and where there is none, why the recipe cannot be planned for it.
    """
    providers = list(dict.fromkeys(c.provider for _, one, _ in found if one for c in one.costs if c.usd_per_hour))
    heads = ["", "", "peak", "free", "time", *providers]
    cells, below = [], []
    for name, one, error in found:
        cells.append([name, *_fit(one, providers)])
        below.append(_would(one, error))

    def tint(column: int, cell: str, padded: str) -> str:
        if column == 0:
            return paint.key(padded)
        if column == 1:
            return (paint.ok if cell == FITS else paint.error if cell == DOES_NOT_FIT else paint.warn)(padded)
        return padded

    head, *rows = console.table(heads, cells, right=range(2, len(heads)), paint=tint)
    same = len(set(below)) == 1 and len(below) > 1
    out = [head]
    for row, text in zip(rows, below, strict=True):
        out += [row, *([f"  {paint.dim(text)}"] if text and not same else [])]
    return [*out, "", *(paint.dim(line) for line in [*(below[:1] if same and below[0] else []), *_legend(found)])]


def _legend(found: Sequence[Found]) -> list[str]:
    """What the columns of `--fits` mean, where that is not plain."""
    known = [one for _, one, _ in found if one]
    if not known or known[0].maths is None:
        return ["time and cost need the number of rows: --rows N"]
    out = [
        "what fits first, and of that the cheapest; time and cost as expected, with their bands in tune plan --gpu NAME"
    ]
    note = next((one.speed.note for one in known if one.speed and one.speed.note), "")
    bundled = any(c.gpus > one.plan.world_size for one in known for c in one.costs)
    return [
        *out,
        *([note] if note else []),
        *(["(8): eight GPUs are only rented together, and all are paid"] if bundled else []),
    ]


def _fit(one: Forecast | None, providers: Sequence[str]) -> list[str]:
    if one is None:
        return ["cannot train", *[""] * (3 + len(providers))]
    memory = one.memory
    free = (memory.usable or 0) - memory.longest.peak if memory else 0
    best = {c.provider: c for c in reversed(one.costs)}
    return [
        one.verdict,
        gib(memory.longest.peak) if memory else "-",
        gib(free) if memory and free >= 0 else "-",
        hours(one.hours[0]) if one.hours else "-",
        *(_paid(best[p], one) if p in best else "-" for p in providers),
    ]


def _paid(cost: Cost, one: Forecast) -> str:
    return f"{cost.usd:,.2f} $" + (f" ({cost.gpus})" if cost.gpus > one.plan.world_size else "")


def _would(one: Forecast | None, error: TuneError | None) -> str:
    """What would make it fit, or why the recipe cannot be planned for the GPU; empty where it fits."""
    if one is None:
        return error.problems[0].what if error else ""
    if one.verdict != DOES_NOT_FIT or one.memory is None:
        return one.untold
    if not one.memory.changes:
        return nothing_fits(one.memory.least) if one.memory.least else ""
    change = one.memory.changes[0]
    return f"{' '.join(change.words)}: {gib(change.estimate.peak)}"
