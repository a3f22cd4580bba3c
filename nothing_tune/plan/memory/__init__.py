"""GPU memory of a training step by arithmetic, without a GPU and without torch. Pure."""

from __future__ import annotations

from nothing_tune.plan.memory.arithmetic import estimate
from nothing_tune.plan.memory.fit import FITS, TOO_BIG, UNKNOWN, Change, changes, length_of, longest, usable, verdict
from nothing_tune.plan.memory.model import ARITHMETIC, SIMULATION, TERMS, Estimate, of_simulation

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
    "usable",
    "verdict",
]
