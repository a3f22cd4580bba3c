"""What a plan needs from outside this process: the rows as the engine prepares them, and the simulation of a step."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from nothing_tune.errors import UsageError
from nothing_tune.plan import Plan
from nothing_tune.plan.forecast import Forecast
from nothing_tune.plan.memory import Estimate, of_simulation
from nothing_tune.plan.rows import Rows, of_report


def rows_of(recipe: Any, plan: Plan, count: int | None, quiet: bool) -> Rows:
    """What can be known of the plan's rows: `count` of them, else as the engine prepares them, else counted, else nothing.

    Raises:
        UsageError: The model's folder is not there, or a data file that the command line names; a row or a file is bad.
    """
    from nothing_tune.cli.data.inspect import prepare
    from nothing_tune.run import forecast, missing

    problems = missing(recipe, plan)
    wrong = [p for p in problems if p.what.startswith("model.name_or_path: there is no")]
    if count is None:
        wrong += [p for p in problems if p.key.startswith("data") and _typed(recipe, p.key)]
    if wrong:
        raise UsageError(*(replace(p, hint=p.hint.partition("; to rehearse")[0]) for p in wrong))
    if count is not None:
        return forecast.given(count, plan)
    lacking = {p.key for p in problems}
    if any(key.startswith("data") for key in lacking):
        return Rows()
    if any(key.startswith("model") for key in lacking) or not forecast.model_here(plan):
        return forecast.counted(plan)
    return of_report(prepare(plan.to_json(), 0, quiet=quiet).get("report") or {})


def _typed(recipe: Any, key: str) -> bool:
    """Whether the command line gave a key, or the file that holds it is the user's own."""
    origin = recipe.origins.get(key)
    return bool(origin and origin.place is None)


def simulated(found: Forecast, quiet: bool) -> Estimate:
    """The longest batch of a forecast as the engine simulates it. Raises what the job reports as error."""
    from nothing_tune.cli.data.inspect import Progress
    from nothing_tune.cli.jobs import job
    from nothing_tune.plan.forecast import batch
    from nothing_tune.run.architecture import config_of

    plan = found.plan
    config, _ = config_of(plan)
    rows, length = batch(plan, found.rows, (config or {}).get("max_position_embeddings"))
    line = Progress(quiet)
    with job(["simulate"], "the simulation") as running:
        running.send(
            {
                "plan": json.loads(json.dumps(plan.to_json(), default=str)),
                "config": config,
                "rows": rows,
                "length": length,
            }
        )
        try:
            while (event := running.read())["type"] != "simulation":
                line.draw(event)
        finally:
            line.clear()
    return of_simulation(event["terms"], rows, length)
