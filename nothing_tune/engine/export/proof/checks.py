"""What a proof is made of: checks, each one sentence with a number and its limit, and the numbers of two answers compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

ROWS = 32
"""Positions that are compared at once, so that the numbers of a large vocabulary stay small in double precision."""


def check(
    name: str, ok: bool | None, what: str, value: float | None = None, limit: float | None = None
) -> dict[str, Any]:
    """One check: `ok` is None where it cannot be told; `what` is one sentence for people."""
    return {"name": name, "ok": ok, "value": value, "limit": limit, "what": what}


def unknown(name: str, why: str, mild: bool = False) -> dict[str, Any]:
    """A check that cannot be made, and why; `mild` (a key only then) where the output is proved without it."""
    found = check(name, None, f"cannot tell: {why}")
    return {**found, "mild": True} if mild else found


def result(checks: Sequence[dict[str, Any]], warnings: Sequence[dict[str, str]] = (), **numbers: Any) -> dict[str, Any]:
    """A proof: `ok` unless a check is false; `kl`, `top1`, `effect`, `tokens` and `prompts` where they were measured.

    `warnings` are `{"what", "hint"}` of what is poor but not wrong.
    """
    blank = {"kl": None, "top1": None, "effect": None, "tokens": 0, "prompts": 0}
    return {
        "ok": all(c["ok"] is not False for c in checks),
        **blank,
        **numbers,
        "checks": list(checks),
        "warnings": list(warnings),
    }


@dataclass(frozen=True)
class Distance:
    """How far answers lie apart, over positions.

    Attributes:
        kl: Mean KL(first || second) in nats.
        most: The largest of a position.
        top1: Share of positions with the same most likely token.
        positions: How many were compared.
    """

    kl: float
    most: float
    top1: float
    positions: int


def distance(first: torch.Tensor, second: torch.Tensor) -> Distance:
    """Compares log-probabilities `[positions, vocabulary]`; where one has more tokens (padding), those that both have.

    A value that is not finite makes the distance infinite.
    """
    width = min(first.shape[-1], second.shape[-1])
    total, most, same = 0.0, 0.0, 0
    for start in range(0, first.shape[0], ROWS):
        p = torch.log_softmax(first[start : start + ROWS, :width].double(), -1)
        q = torch.log_softmax(second[start : start + ROWS, :width].double(), -1)
        each = (p.exp() * (p - q)).sum(-1)
        each = torch.where(torch.isfinite(each), each.clamp_min(0), torch.full_like(each, float("inf")))
        total += float(each.sum())
        most = max(most, float(each.max()))
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    count = max(1, first.shape[0])
    return Distance(total / count, most, same / count, first.shape[0])


def number(value: float) -> str:
    """A distance as people read it: `3.2e-05`, `0.012`."""
    return f"{value:.2g}"
