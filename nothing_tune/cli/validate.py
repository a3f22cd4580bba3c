"""`tune validate`: everything that is wrong with recipes, at once; data and model are not looked at."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import Problem

EXAMPLES = (
    ("tune validate nothing-gpt", "a recipe of the library, on every GPU that it has a block for"),
    ("tune validate quickstart marco --gpu t4", "two recipes, on one GPU"),
    ("tune validate quickstart --json", "for a program"),
)
EXITS = (0, 2, 3)


def command(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...",
            help="YAML files or names of the library.",
            autocompletion=options.complete_words,
            show_default=False,
        ),
    ],
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="The GPU to check for [default: each that the recipe has a block for, and the one found here].",
            autocompletion=options.complete_library("gpus"),
        ),
    ] = None,
    scenario: options.Scenario = None,
    json: options.Json = False,
) -> None:
    """Checks each recipe; leaves with the gravest exit code.

    What it looks at is the recipe alone: `tune plan` looks at data and model.
    """
    checked = [_check(name, gpu, scenario) for name in recipes]
    code = max((row["exit_code"] for row in checked), default=0)
    if json:
        rows = [{**row, "problems": [p.to_json() for p in row["problems"]]} for row in checked]
        console.out_json({"ok": code == 0, "recipes": rows})
        raise typer.Exit(code)
    paint = console.ink()
    left = max(len(name) for name in recipes)
    for row in checked:
        problems: list[Problem] = row["problems"]
        name, where = row["recipe"], paint.dim(f"({', '.join(row['gpus'])})") if row["gpus"] else ""
        if row["ok"]:
            console.out(f"{paint.ok('ok')}  {name.ljust(left)}  {where}".rstrip())
        console.show_problems(problems)
        errors = sum(p.severity == "error" for p in problems)
        if errors:
            console.out(f"{paint.error('bad')} {name.ljust(left)}  {errors} problem{'' if errors == 1 else 's'}")
    if not code:
        console.out(paint.dim("data and model are not looked at: tune plan RECIPE does that"))
    raise typer.Exit(code)


def _check(name: str, gpu: str | None, scenario: str | None) -> dict[str, Any]:
    """`{recipe, ok, gpus, exit_code, problems}` of one recipe, each problem once however many GPUs have it."""
    from nothing_tune.plan import make_plan

    found: dict[tuple[Any, ...], Problem] = {}

    def tell(problems: tuple[Problem, ...]) -> None:
        for p in problems:  # the same line is layer 3 of 4 on one GPU and 3 of 3 on another
            found.setdefault((p.what, p.place, p.severity), p)

    code = 0
    gpus, error = ([gpu], None) if gpu else console.outcome(lambda: _own_gpus(name))
    found_here: list[str | None] = [None]
    for each in gpus or found_here:
        recipe, error = console.outcome(lambda each=each: options.load(name, gpu=each, scenario=scenario))  # type: ignore[misc]
        if recipe is not None:
            tell(recipe.advice)
            _, error = console.outcome(lambda recipe=recipe: make_plan(recipe))  # type: ignore[misc]
        if error is not None:
            tell(error.problems)
            code = max(code, error.exit_code)
    return {
        "recipe": name,
        "ok": code == 0,
        "gpus": [g for g in gpus or [] if g],
        "exit_code": code,
        "problems": list(found.values()),
    }


def _own_gpus(name: str) -> list[str]:
    """GPUs that the recipe itself has a block for, then the one found here; empty without blocks."""
    from nothing_tune.recipe.library import find_recipe
    from nothing_tune.recipe.machine import this_machine
    from nothing_tune.recipe.reader import read_file

    blocks = read_file(find_recipe(name))[0].get("gpus")
    own = [str(gpu) for gpu in blocks] if isinstance(blocks, dict) else []
    return list(dict.fromkeys([*own, this_machine()["name"]])) if own else []
