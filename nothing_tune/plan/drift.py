"""Which settings may change when a run goes on, and which of them did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nothing_tune.errors import Problem

FREE = (
    "tracking.", "training.logging_", "training.report_to", "training.run_name", "training.save_steps", "training.save_strategy",
    "training.save_total_limit", "checkpoint.", "training.dataloader_num_workers", "training.dataloader_pin_memory",
    "training.dataloader_prefetch_factor", "training.dataloader_persistent_workers", "description", "name", "model.facts", "gpu.",
    "data.sample", "model.license", "model.gated", "model.source", "model.as_of", "model.parameters_b",
)  # fmt: skip
"""Keys (or their beginnings) that may change when a run continues: they touch no weight."""
EXTEND_ONLY = ("training.num_train_epochs", "training.max_steps")
"""Keys that may grow when a run continues."""


@dataclass(frozen=True)
class Change:
    """A setting that differs: its dotted key and both values; None where it was or is not set.

    `kind` is `free` (touches no weight), `extend` (may grow, and grew), or `frozen` (may not change).
    """

    key: str
    before: Any
    after: Any
    kind: str


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """What differs between two sets of leaves (`recipe.model.leaves` of a plan's `values`), by key."""
    found = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        kind = "frozen"
        if key.startswith(FREE):
            kind = "free"
        elif key in EXTEND_ONLY and isinstance(old, int | float) and isinstance(new, int | float) and new > old > 0:
            kind = "extend"
        found.append(Change(key, old, new, kind))
    return found


def refusals(found: list[Change]) -> list[Problem]:
    """One problem for each frozen change, with the field, both values and the cure."""
    out = []
    for change in found:
        if change.kind == "frozen":
            hint = (
                "it may only grow"
                if change.key in EXTEND_ONLY
                else "a continued run keeps its settings; start a new run to change them"
            )
            out.append(
                Problem(f"{change.key} was {change.before!r} and would be {change.after!r}", change.key, hint=hint)
            )
    return out
