"""GPU memory of a training step by arithmetic, without a GPU and without torch. Pure."""

from __future__ import annotations

from nothing_tune.plan.memory.arithmetic import estimate
from nothing_tune.plan.memory.fit import (
    FITS,
    TOO_BIG,
    UNKNOWN,
    Change,
    changes,
    longest,
    rows_at_once,
    smallest,
    usable,
    verdict,
)
from nothing_tune.plan.memory.levers import length_of
from nothing_tune.plan.memory.model import ARITHMETIC, SIMULATION, TERMS, Estimate, of_simulation
from nothing_tune.plan.memory.notes import unquantised

__all__ = [
    "ARITHMETIC",
    "FITS",
    "SIMULATION",
    "TERMS",
    "TOO_BIG",
    "UNKNOWN",
    "Change",
    "Estimate",
    "changes",
    "estimate",
    "length_of",
    "longest",
    "of_simulation",
    "rows_at_once",
    "smallest",
    "unquantised",
    "usable",
    "verdict",
]
