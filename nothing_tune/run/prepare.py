"""Makes the directory of a run."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nothing_tune import __version__
from nothing_tune.artifacts import RUN_ID, Run, attempts, checkpoint, create_run, new_run_id, write_json
from nothing_tune.data import sources
from nothing_tune.errors import UsageError
from nothing_tune.plan import Plan, drift
from nothing_tune.recipe import library
from nothing_tune.recipe.model import Recipe
from nothing_tune.run.missing import missing, named
from nothing_tune.run.resume import change, fingerprint, refuse_changes, write_recipe


def prepare(
    recipe: Recipe,
    plan: Plan,
    *,
    root: Path,
    name: str | None = None,
    continue_: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Checks that the run can start, and makes its directory; with `continue_` an existing run `name` is taken up instead.

    Args:
        recipe: What is trained.
        plan: The same, compiled.
        root: The folder of all runs.
        name: The run's id; None makes one from date, recipe and GPU.
        continue_: Take up the run `name` where there is one, in whatever state it was left.
        say: Told each setting that a continued run changes, one line each.

    Raises:
        UsageError: Data, model or tracker key is missing (all problems at once), or the name is taken.
        ResumeRefused: The run to continue was started with other settings.
        Busy: A process works on the run to continue, and its settings would change.
        StorageError: `root` cannot be written.
    """
    if name and continue_ and RUN_ID.fullmatch(name) and (root / name / "plan.json").is_file():
        run = Run(root / name)
        found = refuse_changes(run, plan)
        longer = drift.grown(Plan.from_json(run.plan()).values, plan.values)
        if found:
            change(run, recipe, plan, found, say)
        if longer:
            (run.path / "result.json").unlink(missing_ok=True)
            write_json(
                run.path / "status.json",
                {
                    **(attempts.salvage(run.path / "status.json")[0] or {}),
                    "state": "starting",
                    "heartbeat": time.time(),
                },
            )
        return run
    problems = missing(recipe, plan)
    if problems:
        raise UsageError(*problems)
    recipe, plan = stated(recipe, plan)
    begun = bool(name and continue_ and _half_made(root / name))
    run = Run(root / str(name)) if begun else create_run(root, name or new_run_id(plan.name, _gpu(plan)))
    try:
        write_json(run.path / "lock.json", lock(recipe, plan))
        write_json(
            run.path / "status.json",
            {"state": "starting", "created": time.time(), "recipe": plan.name, "gpu": plan.gpu.get("name")},
        )
        write_recipe(run, recipe, plan)  # plan.json last: what has none is no run yet
    except BaseException:
        if not begun:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def stated(recipe: Recipe, plan: Plan) -> tuple[Recipe, Plan]:
    """Both with the format that was seen in the rows, where `data.format` is `auto` and all files have the same one.

    What lies on the hub, or in a file that the environment names, is looked at by the engine.

    Raises:
        UsageError: The first rows of a file have no format that is known, or more than one could be meant.
    """
    local = [one for one in named(plan, "train") if sources.is_file(one.name)]
    if plan.data.get("format") != "auto" or len(local) != len(named(plan, "train")) or "${" in str(plan.data["train"]):
        return recipe, plan
    seen = {one.format.NAME for one in sources.open_all(plan.data["train"], plan.data)}
    if len(seen) != 1:
        return recipe, plan
    [kind] = seen
    why = f"derived: seen in the first rows of {', '.join(one.label for one in local)}"

    def put(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "data": {**values["data"], "format": kind}}

    data = {**plan.data, "format": kind}
    told = {**plan.why, "data.format": why}
    return replace(recipe, values=put(recipe.values)), replace(plan, values=put(plan.values), data=data, why=told)


def _half_made(folder: Path) -> bool:
    """Whether `folder` is what a process that was killed while it made a run left behind, and nothing else."""
    if not RUN_ID.fullmatch(folder.name) or not folder.is_dir() or (folder / "plan.json").exists():
        return False
    ours = ("lock.json", "status.json", "recipe.yaml", ".")
    return all(entry.name.startswith(ours) for entry in folder.iterdir())


def _gpu(plan: Plan) -> str:
    return str(plan.gpu.get("name", "cpu"))


def lock(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """What lock.json holds: versions, the layers of the recipe, and fingerprints of the local data files, by source."""
    entries = [source for key in ("train", "eval") for source in named(plan, key)]
    return {
        "tune": __version__,
        "python": sys.version.split()[0],
        "layers": [layer.name for layer in recipe.layers],
        "packages": checkpoint.versions(),
        "data": {s.name: mark for s in entries if (mark := fingerprint(s.name))},
    }


def compose(model: str, data: str, method: str = "qlora") -> tuple[str, list[str]]:
    """`(layer, overrides)` of a recipe for a model and a data file: the method's layer, which brings the base defaults.

    The model is a hub id, a folder, or a model of the library such as `nano`.
    """
    library.find_named("methods", method)
    name = re.sub(r"[^a-z0-9]+", "-", f"{model.rstrip('/').rsplit('/', 1)[-1]}-{method}".lower()).strip("-")
    return f"methods/{method}", [
        f"name={json.dumps(name)}",
        f"model.name_or_path={json.dumps(library.base_model(model))}",
        f"data.train={json.dumps(data)}",
    ]
