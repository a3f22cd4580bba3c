"""What one recipe lacks on this machine, for `tune doctor --for RECIPE`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from nothing_tune.artifacts import runs_root
from nothing_tune.data import hub
from nothing_tune.errors import TuneError
from nothing_tune.plan import Plan
from nothing_tune.recipe.model import Recipe, lookup
from nothing_tune.run.doctor.finding import FAIL, OK, SKIP, WARN, Finding, gib
from nothing_tune.run.missing import missing, untracked

NEEDS = "recipe"
STORED_BYTES = 2.0
"""Bytes that a model's file on the hub takes for one parameter: they are stored in bfloat16 or float16."""


def needs(recipe: Recipe, plan: Plan) -> Iterator[Finding]:
    """Data, model, token, packages and tracker that the recipe names and this machine lacks; then the room for its model."""
    problems = missing(recipe, plan)
    for problem in problems:
        yield Finding(NEEDS, problem.key.split(".")[0] or "recipe", FAIL, problem.what, problem.hint)
    for problem in untracked(plan):
        yield Finding(NEEDS, "tracker", WARN, problem.what, problem.hint)
    if not problems:
        yield Finding(NEEDS, "needs", OK, f"{recipe.name}: data, model and packages are at hand")
    yield _room(plan)


def _room(plan: Plan) -> Finding:
    """Whether the hub cache has room for the model, where it must be fetched."""
    name, billions = str(plan.model.get("name_or_path") or ""), lookup(plan.values, "model.parameters_b")
    if not name or Path(name).is_dir() or hub.cached_config(name) is not None:
        return Finding(NEEDS, "room", OK, f"the model {name} is on this machine" if name else "no model is named")
    if not isinstance(billions, int | float):
        return Finding(NEEDS, "room", SKIP, f"how large {name} is, is not known before it is asked for")
    folder = hub.home() / "hub"
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free, wanted = shutil.disk_usage(there).free, billions * 1e9 * STORED_BYTES
    what = f"{name} takes about {gib(wanted)}, {folder} has {gib(free)} free"
    if free < wanted * 1.05:
        return Finding(NEEDS, "room", FAIL, what, "free some space, or export HF_HOME=/another/folder")
    return Finding(NEEDS, "room", OK, f"{what}; runs go to {runs_root()}")


def refused(name: str, error: TuneError) -> Iterator[Finding]:
    """A recipe that cannot even be read, as findings."""
    for problem in error.problems:
        where = f" ({problem.place})" if problem.place else ""
        yield Finding(
            NEEDS, problem.key or name, FAIL, f"{problem.what}{where}", problem.hint or f"tune validate {name}"
        )
