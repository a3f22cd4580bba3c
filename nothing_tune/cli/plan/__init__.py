"""`tune plan`: steps, memory, time, cost, data and advice, before a GPU second is spent."""

from __future__ import annotations

import json as jsonlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune plan quickstart", "the recipe that ships, from its real rows"),
    ("tune plan nothing-gpt --gpu l4 --rows 13482", "where the data lies elsewhere"),
    ("tune plan nothing-gpt --rows 13482 --fits", "which GPU: a line for each"),
    ("tune plan marco --gpu t4 --json", "for a program"),
)
EXITS = (0, 2, 3, 6)


def command(
    words: options.Words = None,
    gpu: options.Gpu = None,
    fits: Annotated[
        bool, typer.Option("--fits", help="A line for each GPU of the library: does it fit, how long, for how much.")
    ] = False,
    scenario: options.Scenario = None,
    with_: options.With = None,
    unset: options.Unset = None,
    model: options.Model = None,
    data: options.Data = None,
    method: options.Method = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", metavar="N", min=1, help="Plan for N training rows, and do not read the data."),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Tell the memory by a real training step of the real architecture on fake tensors (under a minute).",
        ),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Keep the plan for tune train --plan FILE.", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Leave with 3 where there is a warning, too.")] = False,
    json: options.Json = False,
) -> None:
    """Compiles the recipe, looks at its rows and its model, and shows what a run would do and cost."""
    from nothing_tune.cli.plan import page, reading
    from nothing_tune.plan import make_plan
    from nothing_tune.run import forecast as forecasts

    if fits and (gpu or simulate or save):
        other = "--gpu" if gpu else "--simulate" if simulate else "--save"
        raise UsageError(f"--fits looks at every GPU, and {other} at one", hint=f"leave out --fits or {other}")
    recipe_name, overrides = options.recipe_or_composed(words, model, data, method, "plan")

    def loaded(name: str | None) -> Any:
        return options.load(recipe_name, gpu=name, scenario=scenario, with_=with_, overrides=overrides, unset=unset)

    recipe = loaded(gpu)
    plan = make_plan(recipe)
    known = reading.rows_of(recipe, plan, rows, quiet=json)
    if fits:
        raise typer.Exit(_fits(loaded, known, json))
    found = forecasts.forecast(plan, known)
    if simulate:
        found = forecasts.forecast(plan, known, simulated=reading.simulated(found, quiet=json))
    if save:
        from nothing_tune.run import saved

        said = {"recipe": recipe_name, "gpu": gpu, "scenario": scenario, "with": with_ or [], "unset": unset or []}
        saved.save(save, recipe, found, {**said, "overrides": overrides})
    if json:
        console.out_json(found.to_json())
    else:
        console.show_problems(recipe.advice)
        console.out(*page.lines(found, console.ink()))
        if save:
            console.out("", f"saved; train exactly this with {console.ink().key(f'tune train --plan {save}')}")
    raise typer.Exit(found.exit_code(strict))


def _fits(loaded: Any, known: Any, json: bool) -> int:
    """Shows a line for each GPU; returns 0 where the recipe fits at least one, else 3, or 6 where nothing can be told."""
    from nothing_tune.cli.plan import table
    from nothing_tune.plan import make_plan
    from nothing_tune.recipe.library import names
    from nothing_tune.run import forecast as forecasts

    found: list[tuple[str, Any, Any]] = []
    for name in names("gpus"):
        recipe, error = console.outcome(lambda name=name: loaded(name))  # type: ignore[misc]
        plan, error = (None, error) if error else console.outcome(lambda recipe=recipe: make_plan(recipe))  # type: ignore[misc]
        if plan is None:
            if recipe is not None and recipe.get("gpu.kind") == "cuda":
                found.append((name, None, error))
        elif plan.gpu.get("kind", "cuda") == "cuda" and plan.gpu.get("memory_gb"):
            limit = plan.training.get("max_length")
            own = replace(known, longest=min(known.longest, limit)) if known.longest and limit else known
            found.append((name, forecasts.forecast(plan, own, fetch=not found), None))
    found.sort(key=_cheapest)
    if json:
        console.out_json([_row(name, one, error) for name, one, error in found])
    else:
        console.out(*table.lines(found, console.ink()))
    verdicts = {one.verdict for _, one, _ in found if one}
    return 0 if "fits" in verdicts else 3 if "does not fit" in verdicts else 6


def _cheapest(row: Any) -> tuple[bool, float, float]:
    """Order of `--fits`: what fits first, and of these the cheapest, then the fastest."""
    one = row[1]
    paid = [c.usd for c in one.costs if c.usd_per_hour] if one else []
    return not (one and one.verdict == "fits"), min(paid, default=1e9), one.hours[0] if one and one.hours else 1e9


def _row(name: str, one: Any, error: Any) -> dict[str, Any]:
    if one is None:
        return {"gpu": name, "verdict": "cannot train", "problems": [p.to_json() for p in error.problems]}
    return jsonlib.loads(jsonlib.dumps({"gpu": name, **{k: v for k, v in one.to_json().items() if k != "gpu"}}))  # type: ignore[no-any-return]
