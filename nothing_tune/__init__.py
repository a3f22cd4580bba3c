"""nothing-tune: fine-tuning of language models, declared in YAML.

import nothing_tune as tune

recipe = tune.load_recipe("quickstart")
plan = tune.make_plan(recipe)
run = tune.train(recipe)          # makes the run, trains it, returns it
run.result()["metrics"]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nothing_tune.artifacts import Run as Run
    from nothing_tune.plan import Plan as Plan
    from nothing_tune.plan import make_plan as make_plan
    from nothing_tune.recipe import load_recipe as load_recipe
    from nothing_tune.recipe.model import Recipe as Recipe

__version__ = "0.1.0"
__all__ = ["Plan", "Recipe", "Run", "load_recipe", "make_plan", "train"]

_WHERE = {"Run": "artifacts", "Plan": "plan", "make_plan": "plan", "load_recipe": "recipe", "Recipe": "recipe.model"}


def train(recipe: Any, *, runs_dir: str | Path | None = None, name: str | None = None) -> Run:
    """Makes a run of a `Recipe` (or of a recipe's name), trains it in a process of its own, and returns it when it is done.

    Raises:
        TuneError: The recipe cannot start, or the run failed; `run.path / "engine.log"` has the libraries' words.
    """
    from nothing_tune.artifacts import runs_root
    from nothing_tune.errors import Problem, RunError
    from nothing_tune.plan import make_plan
    from nothing_tune.recipe import load_recipe
    from nothing_tune.run import prepare, start

    loaded = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    run = prepare(loaded, make_plan(loaded), root=runs_root(runs_dir), name=name)
    start(run).wait()
    result = run.result() or {}
    if result.get("state") != "done":
        said = [Problem(**{**p, "place": None}) for p in (result.get("error") or {}).get("problems", [])]
        raise RunError(
            *(said or [Problem(f"run {run.id} ended without a result", hint=f"see {run.path / 'engine.log'}")])
        )
    return run


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"nothing_tune.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'nothing_tune' has no attribute {name!r}")
