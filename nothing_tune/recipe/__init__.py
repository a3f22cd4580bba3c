"""Recipes: YAML layers found, merged, checked, and frozen into a `Recipe` whose every value knows its origin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nothing_tune.errors import RecipeError
from nothing_tune.recipe.model import Recipe

BASE = "base/qlora"
"""What is shown and composed from where no recipe is named."""


def load_recipe(
    name: str | Path | None = None,
    *,
    gpu: str | None = None,
    scenario: str | None = None,
    with_: Sequence[str] = (),
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    machine: dict[str, Any] | None = None,
) -> Recipe:
    """Reads, merges and checks a recipe and all its layers.

    Args:
        name: Path or library name; None is the base QLoRA recipe.
        gpu: Name of a GPU layer; None takes the recipe's own `gpu.name`, else that of `machine`, else `cpu`.
        scenario: Name of a scenario layer; None for none.
        with_: Files or library layers merged after the recipe.
        overrides: `key=value` or `~key`, values in YAML.
        unset: Keys to remove.
        machine: What `machine.this_machine()` found here: `name`, and `facts` for a GPU that has no layer of its own.

    Raises:
        RecipeError: With every problem found, each with its place and cure.
    """
    # Imported here, so that whoever only needs the dataclasses below this package does not import OmegaConf.
    from nothing_tune.recipe import checks, layers, merge
    from nothing_tune.recipe.library import find_recipe

    path = find_recipe(name if name is not None else BASE)
    stack, _ = layers.order(path, gpu, scenario, with_, overrides, unset, machine)
    try:
        values, origins = merge.merge(stack)
    except RecipeError as error:
        raise RecipeError(*error.problems, *checks.check_layers(tuple(stack))) from error
    problems = checks.check(values, origins, tuple(stack))
    errors = [p for p in problems if p.severity == "error"]
    if errors:
        raise RecipeError(*errors)
    advice = tuple(p for p in problems if p.severity != "error")
    return Recipe(str(values.get("name") or path.stem), path, values, origins, tuple(stack), advice)
