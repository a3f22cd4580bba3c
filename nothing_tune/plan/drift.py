"""Which settings may change when a run goes on, and which of them did."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nothing_tune.errors import Problem
from nothing_tune.plan import kwargs
from nothing_tune.recipe.model import leaves, lookup

FREE = (
    # What a run is called and tells.
    "name", "description", "tracking.", "training.report_to", "training.run_name", "training.disable_tqdm",
    "training.logging_", "training.log_level", "training.log_level_replica", "training.log_on_each_node",
    # How rows were made: those that are there are compared themselves.
    "generate", "generate.",
    # When it saves, and what it watches. Evaluation is not among these: it draws from the random numbers that dropout uses.
    "training.save_steps", "training.save_strategy", "training.save_total_limit", "checkpoint.",
    "monitor.non_finite_steps", "monitor.loss_spike", "monitor.rehearse", "monitor.hang_minutes",
    # What is made of the weights afterwards.
    "export", "export.",
    # How batches reach the device. Workers that persist are not among these: they draw one seed instead of one an epoch.
    "training.dataloader_num_workers", "training.dataloader_pin_memory", "training.dataloader_prefetch_factor",
    "training.torch_empty_cache_steps", "training.ddp_timeout", "training.skip_memory_metrics", "launch.", "advice.",
    # Facts, a sample that is used only where data.train names it, and how many bad rows stop a run: the rows that are
    # left are compared themselves.
    "gpu.", "data.sample", "data.sample.", "data.max_bad_rows",
    "model.facts", "model.facts.", "model.license", "model.gated", "model.parameters_b",
)  # fmt: skip
"""Keys that may change when a run continues: they touch no weight and do not decide what is handed over. With a dot or an
underscore at the end: all keys that begin so."""
EPOCHS, STEPS = "training.num_train_epochs", "training.max_steps"
EXTEND_ONLY = (EPOCHS, STEPS)
"""Keys that may grow when a run continues."""


BY_CONTENT = ("data.train", "data.eval")
"""Keys whose values only say where something lies: its content, which the engine compares, decides."""
USUAL: dict[str, Any] = leaves(
    {
        "data": kwargs.DATA,
        "checkpoint": {**kwargs.checkpoint_settings({}), "deadline": None},
        "monitor": kwargs.monitor_settings({}),
        "launch": {"processes": 1},
        "export": kwargs.EXPORT,
    }
)
"""Settings that a newer nothing-tune added -> the value at which they touch nothing of a run that was made without them."""


@dataclass(frozen=True)
class Change:
    """A setting that differs: its dotted key and both values; None where it was or is not set.

    `kind` is `free` (touches no weight), `extend` (may grow, and grew), or `frozen` (may not change).
    """

    key: str
    before: Any
    after: Any
    kind: str

    def __str__(self) -> str:
        """`training.save_steps: 100 -> 50`, with what follows from it where something does."""
        text = f"{self.key}: {shown(self.before)} -> {shown(self.after)}"
        if self.kind == "extend":
            return f"{text}; the learning rate follows the longer curve from here"
        if self.key == "launch.processes":
            return f"{text}; the rows of a step stay, and from here the result is not bit for bit that of an uninterrupted run"
        if self.key == "gpu.name":
            return f"{text}; another GPU rounds otherwise: from here the result is not bit for bit that of an uninterrupted run"
        return text


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Leaves of a plan's `values` as `changes` compares them: sources whole, whether they are texts, mappings or lists."""
    out = leaves(values)
    for key in BY_CONTENT:
        whole = lookup(values, key)
        if isinstance(whole, dict):
            out = {k: v for k, v in out.items() if not k.startswith(f"{key}.")} | {key: whole}
    return out


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """What differs between two sets of leaves (`flat` of a plan's `values`), by key; not what `before` lacks and is `USUAL`."""
    found = []
    usual = {**USUAL, "data.truncation": kwargs.truncation({"training": _training(after)})[0]}
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old == new or (key not in before and key in usual and usual[key] == new):
            continue
        if key == "data.format" and "auto" in (old, new):
            continue  # a run states what was seen; the rows themselves are compared by the engine
        kind = "frozen"
        if is_free(key):
            kind = "free"
        elif key in EXTEND_ONLY and isinstance(old, int | float) and isinstance(new, int | float) and new > old > 0:
            kind = "extend"
        found.append(Change(key, old, new, kind))
    return found


def _training(flat_: dict[str, Any]) -> dict[str, Any]:
    return {k.removeprefix("training."): v for k, v in flat_.items() if k.startswith("training.")}


def is_free(key: str) -> bool:
    """Whether a dotted key may change when a run continues."""
    return key in FREE or key.startswith(tuple(name for name in FREE if name[-1] in "._"))


def told(found: Iterable[Change], max_steps: int = 0) -> list[str]:
    """One line for each change that may be made, for people; of a GPU's facts its name alone.

    Args:
        found: The changes.
        max_steps: The run's training.max_steps as it will be; above 0 it decides when the run ends, whatever the epochs are.
    """
    return [
        f"{c.key}: {shown(c.before)} -> {shown(c.after)}; it changes nothing: training.max_steps, {max_steps}, decides"
        if c.key == EPOCHS and max_steps > 0
        else str(c)
        for c in found
        if c.kind != "frozen" and (not c.key.startswith("gpu.") or c.key == "gpu.name")
    ]


def max_steps(values: dict[str, Any]) -> int:
    """The training.max_steps of a plan's `values`; 0 where the epochs decide when a run ends."""
    return max(int(lookup(values, STEPS) or 0), 0)


def grown(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a plan with the values `new` trains longer than one with `old`: more steps where they decide, else more epochs."""
    key = STEPS if max_steps(new) else EPOCHS
    return (lookup(new, key) or 0) > (lookup(old, key) or 0)


def refusals(found: Iterable[Change], run_id: str = "RUN_ID") -> list[Problem]:
    """One problem for each frozen change, with the field, both values, and the command that makes a child run with it."""
    out = []
    for change in found:
        if change.kind == "frozen":
            what = f"{change.key} was {shown(change.before)} and would be {shown(change.after)}"
            fork = f"tune runs fork {run_id} {_word(change)} makes a child run with it"
            hint = f"it may only grow; {fork}" if change.key in EXTEND_ONLY else fork
            out.append(Problem(what, change.key, hint=hint))
    return out


def shown(value: Any) -> str:
    """A value as YAML writes it, on one line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _word(change: Change) -> str:
    """The change as one writes it on a command line."""
    if change.after is None and change.before is not None:
        return shlex.quote(f"{change.key}=null")
    return shlex.quote(f"{change.key}={shown(change.after)}")
