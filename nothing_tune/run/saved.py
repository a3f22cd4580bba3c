"""A plan kept in a file: what was looked at, so that exactly that is trained, or nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import write_json
from nothing_tune.errors import Problem, ResumeRefused, UsageError
from nothing_tune.plan import Plan, drift
from nothing_tune.plan.forecast import Forecast
from nothing_tune.plan.rows import Rows
from nothing_tune.recipe import library
from nothing_tune.recipe.model import Recipe
from nothing_tune.run.prepare import lock

KIND = "nothing-tune plan"
VERSION = 1


@dataclass(frozen=True)
class Saved:
    """What a file of `tune plan --save` holds.

    Attributes:
        path: The file.
        words: What the recipe was loaded from: `recipe`, `gpu`, `scenario`, `with`, `overrides`, `unset`.
        plan: The plan.
        rows: What was known of its rows.
        lock: Versions and fingerprints of the data, as in lock.json of a run.
    """

    path: Path
    words: dict[str, Any]
    plan: Plan
    rows: Rows
    lock: dict[str, Any]


def save(path: Path, recipe: Recipe, found: Forecast, words: dict[str, Any]) -> None:
    """Writes what was planned to `path`, in place of what is there. `StorageError` where that cannot be done."""
    data = {
        "kind": KIND,
        "version": VERSION,
        "words": words,
        "lock": lock(recipe, found.plan),
        "forecast": found.to_json(),
        "plan": found.plan.to_json(),
    }
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for the plan", hint="make it, or name another file")
    write_json(path, data)


def load(path: Path) -> Saved:
    """What `save` wrote. `UsageError` where `path` holds nothing of that kind."""
    hint = "tune plan RECIPE --save FILE writes one"
    if not path.is_file():
        raise UsageError(f"there is no plan {path}", hint=hint)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UsageError(f"{path} is not a plan that tune has saved", hint=hint)
    try:
        if int(data["version"]) > VERSION:
            raise ValueError(f"version {data['version']} is newer than {VERSION}: use a newer nothing-tune")
        return Saved(
            path,
            dict(data["words"]),
            Plan.from_json(data["plan"]),
            Rows(**data["forecast"]["rows"]),
            dict(data["lock"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint=hint) from error


def refuse_drift(saved: Saved, recipe: Recipe, plan: Plan) -> None:
    """`ResumeRefused` where recipe, data or versions are no longer those that were looked at, with every difference."""
    problems = [
        Problem(f"{c.key} was {drift.shown(c.before)} and is now {drift.shown(c.after)}", c.key)
        for c in drift.changes(drift.flat(saved.plan.values), drift.flat(plan.values))
    ]
    now = lock(recipe, plan)
    for name, before in sorted(saved.lock.get("packages", {}).items()):
        after = now["packages"].get(name)
        if after != before:
            problems.append(Problem(f"{name} was {before} and is now {after or 'not installed'}"))
    for name in sorted({*saved.lock.get("data", {}), *now["data"]}):
        before, after = saved.lock.get("data", {}).get(name), now["data"].get(name)
        if before != after:
            what = "is gone" if after is None else "was not there" if before is None else "has changed"
            problems.append(
                Problem(f"the data {library.shown(Path(name))} {what} since the plan was saved", "data.train")
            )
    if problems:
        hint = f"look again: tune plan ... --save {saved.path}; or train without --plan"
        raise ResumeRefused(*problems[:-1], replace(problems[-1], hint=hint))
