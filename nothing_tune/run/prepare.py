"""Makes the directory of a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from nothing_tune import __version__
from nothing_tune.artifacts import Run, create_run, new_run_id, write_json
from nothing_tune.errors import UsageError
from nothing_tune.plan import Plan
from nothing_tune.recipe import library
from nothing_tune.recipe.model import Recipe
from nothing_tune.run.missing import missing, sources
from nothing_tune.run.resume import grown, refuse_changes, write_recipe

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "tokenizers", "numpy")
"""Packages whose versions are kept in lock.json."""


def prepare(recipe: Recipe, plan: Plan, *, root: Path, name: str | None = None, continue_: bool = False) -> Run:
    """Checks that the run can start, and makes its directory; with `continue_` an existing run `name` is taken up instead.

    Raises:
        UsageError: Data, model or tracker key is missing (all problems at once), or the name is taken.
        ResumeRefused: The run to continue was started with other settings.
        StorageError: `root` cannot be written.
    """
    if name and continue_ and (root / name / "plan.json").is_file():
        run = Run(root / name)
        refuse_changes(run, plan)
        if grown(Plan.from_json(run.plan()), plan):
            (run.path / "result.json").unlink(missing_ok=True)
            write_json(run.path / "status.json", {**run.status(), "state": "starting", "heartbeat": time.time()})
            write_recipe(run, recipe, plan)
        return run
    problems = missing(recipe, plan)
    if problems:
        raise UsageError(*problems)
    run = create_run(root, name or new_run_id(plan.name, str(plan.gpu.get("name", "cpu"))))
    try:
        write_recipe(run, recipe, plan)
        write_json(
            run.path / "lock.json",
            {
                "tune": __version__,
                "python": sys.version.split()[0],
                "layers": [layer.name for layer in recipe.layers],
                "packages": _versions(),
                "data": _fingerprints(plan),
            },
        )
        write_json(
            run.path / "status.json",
            {"state": "starting", "created": time.time(), "recipe": plan.name, "gpu": plan.gpu.get("name")},
        )
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def compose(model: str, data: str, method: str = "qlora") -> tuple[str, list[str]]:
    """`(layer, overrides)` of a recipe for a model and a data file: the method's layer, which brings the base defaults."""
    library.find_named("methods", method)
    name = re.sub(r"[^a-z0-9]+", "-", f"{model.rstrip('/').rsplit('/', 1)[-1]}-{method}".lower()).strip("-")
    return f"methods/{method}", [
        f"name={json.dumps(name)}",
        f"model.name_or_path={json.dumps(model)}",
        f"data.train={json.dumps(data)}",
    ]


def _versions() -> dict[str, str]:
    out = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[package] = metadata.version(package)
    return out


def _fingerprints(plan: Plan) -> dict[str, dict[str, Any]]:
    """`{path: {bytes, sha256}}` of the local data files; hub ids and globs are fingerprinted by the engine."""
    out = {}
    for source in [*sources(plan.data.get("train")), *sources(plan.data.get("eval"))]:
        path = Path(source)
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
            out[source] = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
    return out
