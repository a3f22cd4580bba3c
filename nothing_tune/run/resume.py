"""Decides whether a run may go on, and with which changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, read_json, write_json, write_text
from nothing_tune.data import files, sources
from nothing_tune.errors import ResumeRefused, UsageError
from nothing_tune.plan import Plan, drift, make_plan
from nothing_tune.recipe import library, load_recipe, merge
from nothing_tune.recipe.model import Recipe
from nothing_tune.run.control import refuse_held


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
        longer = drift.grown(Plan.from_json(run.plan()).values, plan.values)
    else:
        recipe, plan, longer, found = None, None, False, []
    if run.state() == "done" and not longer:
        limit = drift.max_steps(run.plan()["values"])
        key = f"{drift.STEPS}=N; it is {limit} and decides, not the epochs" if limit else f"{drift.EPOCHS}=N"
        raise UsageError(
            f"run {run.id} is done: there is nothing to resume", hint=f"to train on: tune resume {run.id} {key}"
        )
    if recipe and plan and found:
        change(run, recipe, plan, found, say)
    return run


def change(run: Run, recipe: Recipe, plan: Plan, found: list[drift.Change], say: Callable[[str], None]) -> None:
    """Writes a run's changed settings and says them. `Busy` while a process works with the old ones."""
    refuse_held(run)
    for line in drift.told(found, drift.max_steps(plan.values)):
        say(line)
    moved = [source.name for c in found if c.key in drift.BY_CONTENT for source in _sources(c.after)]
    if moved:
        known = read_json(run.path / "lock.json") or {}
        data = {**(known.get("data") or {}), **{source: fingerprint(source) for source in moved}}
        write_json(run.path / "lock.json", {**known, "data": data})
    write_recipe(run, recipe, plan.of_version(int(run.plan().get("version", 1))))


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
    found = drift.changes(drift.flat(run.plan()["values"]), drift.flat(json.loads(json.dumps(plan.values))))
    return [replace(c, kind="free") if c.key in drift.BY_CONTENT and _moved(run, c) else c for c in found]


def fingerprint(source: str) -> dict[str, Any] | None:
    """`{bytes, sha256}` of a local data file, `{files, bytes, sha256}` of a folder's or glob's files in their order.

    None for what is no local data: the engine looks at the rows of all of it.
    """
    found = files.resolve(source) if sources.is_file(source) else []
    if not found:
        return None
    digests = []
    for path in found:
        with path.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
    size = sum(path.stat().st_size for path in found)
    if Path(source).expanduser().is_file():
        return {"bytes": size, "sha256": digests[0]}
    return {"files": len(found), "bytes": size, "sha256": hashlib.sha256("".join(digests).encode()).hexdigest()}


def _sources(value: Any) -> tuple[sources.Source, ...]:
    return sources.parse(value, {}) if isinstance(value, str | dict | list) and value else ()


def _moved(run: Run, change: drift.Change) -> bool:
    """Whether a data setting names files with the contents that the run was started with, and uses them the same way."""
    known = (read_json(run.path / "lock.json") or {}).get("data") or {}
    before, after = _sources(change.before), _sources(change.after)
    return len(before) == len(after) > 0 and all(
        replace(old, name=new.name) == new
        and known.get(old.name) is not None
        and known[old.name] == fingerprint(new.name)
        for old, new in zip(before, after, strict=True)
    )


def write_recipe(run: Run, recipe: Recipe, plan: Plan) -> None:
    """Writes recipe.yaml and plan.json."""
    origin = library.label(recipe.path) if recipe.path else plan.name
    again = library.shown(run.path / "recipe.yaml")
    head = f"# The resolved recipe of run {run.id}, made from {origin}.\n# Repeat it: tune train {again}\n"
    write_text(run.path / "recipe.yaml", head + merge.to_yaml(recipe.values))
    write_json(run.path / "plan.json", plan.to_json())
