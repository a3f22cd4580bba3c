"""How fast runs like a planned one were here: measured beats any assumption."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, read_json, run_ids
from nothing_tune.plan import Plan
from nothing_tune.plan.forecast import Pace
from nothing_tune.recipe.model import lookup

LOOKED_AT = 50
"""Newest runs that are looked at."""
FEWEST_STEPS = 10
"""A run of fewer steps tells more of its start than of its pace."""
ALIKE = (
    "model.name_or_path", "gpu.name", "gpu.slug", "quantization", "peft", "launch.processes", "data.train", "training.max_length",
    "training.packing", "training.optim", "training.activation_checkpointing", "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps", "training.eval_strategy", "training.eval_steps",
)  # fmt: skip
"""What two runs must have in common for one to tell the pace of the other."""


def pace(plan: Plan, root: Path) -> Pace | None:
    """The pace of the newest run in `root` that trained as `plan` would, on a machine like this one; None without one."""
    if not root.is_dir():
        return None
    wanted = _marks(plan.values)
    for run_id in reversed(run_ids(root)[-LOOKED_AT:]):
        run = Run(root / run_id)
        result = run.result() or {}
        metrics, steps = result.get("metrics") or {}, int(result.get("step") or 0)
        trained_s = metrics.get("trained_s")
        if steps < FEWEST_STEPS or not trained_s or result.get("attempt") != 1:
            continue
        before = (read_json(run.path / "plan.json") or {}).get("values") or {}
        cpus = ((read_json(run.path / "machine.json") or {}).get("engine") or {}).get("cpus")
        if _marks(before) == wanted and cpus in (None, os.cpu_count()):
            return Pace(trained_s / steps, steps, run_id)
    return None


def _marks(values: dict[str, Any]) -> list[Any]:
    return [lookup(values, key) for key in ALIKE]
