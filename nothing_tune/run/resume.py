"""Decides whether a run may go on, and with which changes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nothing_tune.artifacts import Run, write_json, write_text
from nothing_tune.errors import ResumeRefused, UsageError
from nothing_tune.plan import Plan, drift, make_plan
from nothing_tune.recipe import library, load_recipe, merge
from nothing_tune.recipe.model import Recipe, leaves, lookup


def resume(run: Run, overrides: Sequence[str] = ()) -> Run:
    """Readies `run` to go on at its newest checkpoint, with `overrides` of what may change.

    Raises:
        UsageError: The run is done, or an override is wrong.
        ResumeRefused: An override would change the result; names the field and both values.
    """
    if overrides:
        recipe = load_recipe(run.path / "recipe.yaml", overrides=overrides)
        plan = make_plan(recipe)
        refuse_changes(run, plan)
        longer = grown(Plan.from_json(run.plan()), plan)
    else:
        recipe, plan, longer = None, None, False
    if run.state() == "done" and not longer:
        raise UsageError(
            f"run {run.id} is done: there is nothing to resume",
            hint=f"to train on: tune resume {run.id} training.num_train_epochs=N",
        )
    if recipe and plan:
        write_recipe(run, recipe, plan)
    return run


def grown(old: Plan, new: Plan) -> bool:
    """Whether `new` trains longer than `old`."""
    return any((lookup(new.values, k) or 0) > (lookup(old.values, k) or 0) for k in drift.EXTEND_ONLY)


def refuse_changes(run: Run, plan: Plan) -> None:
    """`ResumeRefused` with every setting in which `plan` differs from the run's own and that may not change."""
    found = drift.changes(leaves(run.plan()["values"]), leaves(json.loads(json.dumps(plan.values))))
    problems = drift.refusals(found)
    if problems:
        raise ResumeRefused(*problems)


def write_recipe(run: Run, recipe: Recipe, plan: Plan) -> None:
    """Writes recipe.yaml and plan.json."""
    origin = library.label(recipe.path) if recipe.path else plan.name
    again = library.shown(run.path / "recipe.yaml")
    head = f"# The resolved recipe of run {run.id}, made from {origin}.\n# Repeat it: tune train {again}\n"
    write_text(run.path / "recipe.yaml", head + merge.to_yaml(recipe.values))
    write_json(run.path / "plan.json", plan.to_json())
