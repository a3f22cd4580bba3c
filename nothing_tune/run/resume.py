"""Decides whether a run may go on, and with which changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, read_json, write_json, write_text
from nothing_tune.errors import ResumeRefused, UsageError
from nothing_tune.plan import Plan, drift, make_plan
from nothing_tune.plan.kwargs import checkpoint_settings, monitor_settings
from nothing_tune.recipe import library, load_recipe, merge
from nothing_tune.recipe.model import Recipe, leaves, lookup
from nothing_tune.run.control import refuse_held
from nothing_tune.run.missing import sources


def resume(run: Run, overrides: Sequence[str] = (), say: Callable[[str], None] = lambda _: None) -> Run:
    """Readies `run` to go on at its newest checkpoint, with `overrides` of what may change.

    Args:
        run: The run.
        overrides: `key=value` or `~key`, over the run's own recipe.
        say: Told each change, one line each.

    Raises:
        UsageError: The run is done, or an override is wrong.
        ResumeRefused: An override would change the result; names the field and both values.
        Busy: A process works on the run, and there are changes.
    """
    if overrides:
        recipe = load_recipe(run.path / "recipe.yaml", overrides=overrides)
        plan = make_plan(recipe)
        found = refuse_changes(run, plan)
        longer = grown(Plan.from_json(run.plan()), plan)
    else:
        recipe, plan, longer, found = None, None, False, []
    if run.state() == "done" and not longer:
        raise UsageError(
            f"run {run.id} is done: there is nothing to resume",
            hint=f"to train on: tune resume {run.id} training.num_train_epochs=N",
        )
    if recipe and plan and found:
        change(run, recipe, plan, found, say)
    return run


def change(run: Run, recipe: Recipe, plan: Plan, found: list[drift.Change], say: Callable[[str], None]) -> None:
    """Writes a run's changed settings and says them. `Busy` while a process works with the old ones."""
    refuse_held(run)
    for line in drift.told(found):
        say(line)
    moved = [source for c in found if c.key in drift.BY_CONTENT for source in sources(c.after)]
    if moved:
        known = read_json(run.path / "lock.json") or {}
        data = {**(known.get("data") or {}), **{source: fingerprint(source) for source in moved}}
        write_json(run.path / "lock.json", {**known, "data": data})
    write_recipe(run, recipe, plan)


def grown(old: Plan, new: Plan) -> bool:
    """Whether `new` trains longer than `old`."""
    return any((lookup(new.values, k) or 0) > (lookup(old.values, k) or 0) for k in drift.EXTEND_ONLY)


def refuse_changes(run: Run, plan: Plan) -> list[drift.Change]:
    """What `differences` finds. `ResumeRefused` with every setting that may not change."""
    found = differences(run, plan)
    problems = drift.refusals(found, run.id)
    if problems:
        raise ResumeRefused(*problems)
    return found


def differences(run: Run, plan: Plan) -> list[drift.Change]:
    """In what `plan` differs from the run's own.

    Settings that a newer nothing-tune added, which touch nothing, are left out. Data that only lies elsewhere is a free change.
    """
    before = leaves(run.plan()["values"])
    found = drift.changes(before, leaves(json.loads(json.dumps(plan.values))))
    usual = {"checkpoint": checkpoint_settings({}), "monitor": monitor_settings({}), "launch": {"processes": 1}}
    usual["checkpoint"]["deadline"] = None
    found = [c for c in found if c.key in before or lookup(usual, c.key, c) != c.after]
    return [replace(c, kind="free") if c.key in drift.BY_CONTENT and _moved(run, c) else c for c in found]


def fingerprint(source: str) -> dict[str, Any] | None:
    """`{bytes, sha256}` of a local data file; None for what is none: the engine looks at the rows of all of them."""
    path = Path(source)
    if not path.is_file():
        return None
    with path.open("rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _moved(run: Run, change: drift.Change) -> bool:
    """Whether a data setting names files with the contents that the run was started with."""
    known = (read_json(run.path / "lock.json") or {}).get("data") or {}
    before, after = sources(change.before), sources(change.after)
    return len(before) == len(after) > 0 and all(
        known.get(old) is not None and known[old] == fingerprint(new) for old, new in zip(before, after, strict=True)
    )


def write_recipe(run: Run, recipe: Recipe, plan: Plan) -> None:
    """Writes recipe.yaml and plan.json."""
    origin = library.label(recipe.path) if recipe.path else plan.name
    again = library.shown(run.path / "recipe.yaml")
    head = f"# The resolved recipe of run {run.id}, made from {origin}.\n# Repeat it: tune train {again}\n"
    write_text(run.path / "recipe.yaml", head + merge.to_yaml(recipe.values))
    write_json(run.path / "plan.json", plan.to_json())
