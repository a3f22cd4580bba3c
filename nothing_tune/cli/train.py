"""`tune train`: recipe -> plan -> run -> engine, then the live view."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.help import RUNNING
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune train quickstart", "the model that ships with tune, on any machine"),
    ("tune train quickstart training.learning_rate=1e-3 --max-steps 20", "with other values"),
    ("tune train nothing-gpt --gpu l4 --scenario debug --dry-run", "what would happen, without doing it"),
    ("tune train marco --with models/nano", "rehearse a recipe on its sample, on a CPU"),
    ("tune train --model ORG/NAME --data rows.jsonl --method lora", "without a recipe"),
    ("tune train quickstart --name nightly --continue --deadline 23h50m", "start, or go on where it stopped"),
)
EXITS = RUNNING


def command(
    words: options.Words = None,
    gpu: options.Gpu = None,
    scenario: options.Scenario = None,
    with_: options.With = None,
    unset: options.Unset = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="Without a recipe: the base model, a hub id or a folder."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE", help="Without a recipe: the training data, a file or a hub id."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Without a recipe: how to train, see `tune list methods` [default: qlora].",
            autocompletion=options.complete_library("methods"),
        ),
    ] = None,
    max_samples: Annotated[
        int | None,
        typer.Option("--max-samples", metavar="N", min=1, help="Train on at most N rows: data.max_samples=N."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", metavar="N", min=1, help="Stop after N steps: training.max_steps=N.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="RUN_ID",
            help="The run's id, 2 to 128 lower-case letters, digits, dots, dashes, underscores "
            "[default: date, recipe, GPU].",
        ),
    ] = None,
    deadline: options.Deadline = None,
    runs_dir: options.RunsDir = None,
    continue_: Annotated[
        bool,
        typer.Option("--continue", help="Continue run --name where it exists, so that the same command can run again."),
    ] = False,
    drift: options.AllowVersionDrift = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, and make nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the run's result as JSON when it ends, and nothing before.")
    ] = False,
) -> None:
    """Resolves the recipe, makes the run, starts the engine and follows it."""
    from nothing_tune.artifacts import check_name, runs_root
    from nothing_tune.plan import make_plan
    from nothing_tune.run import untracked

    if continue_ and not name:
        raise UsageError("--continue needs --name", hint="tune resume latest continues the newest run")
    if dry_run and name:
        check_name(name, None if continue_ else runs_root(runs_dir))
    recipe_name, overrides = options.split_words(words)
    if max_samples is not None:
        overrides.append(f"data.max_samples={max_samples}")
    if max_steps is not None:
        overrides.append(f"training.max_steps={max_steps}")
    if deadline is not None:
        overrides.append(f"checkpoint.deadline={jsonlib.dumps(deadline)}")
    if drift:
        options.allow_version_drift()
    if model or data or method:
        recipe_name, composed = _composed(recipe_name, model, data, method)
        overrides = [*composed, *overrides]
    elif recipe_name is None:
        raise UsageError(
            "which recipe? none is named",
            hint="tune train quickstart; or tune train --model NAME --data FILE; tune list shows the recipes",
        )
    recipe = options.load(recipe_name, gpu=gpu, scenario=scenario, with_=with_, overrides=overrides, unset=unset)
    plan = make_plan(recipe)
    if not json:
        console.show_problems([*recipe.advice, *(untracked(plan) if dry_run else ())])
        if model:
            console.note(f"composed a recipe from {recipe_name} for {model}; the run keeps it as recipe.yaml")
    if dry_run:
        _dry(recipe, plan, json)
        return

    from nothing_tune import run as runs

    run = runs.prepare(
        recipe, plan, root=runs_root(runs_dir), name=name, continue_=continue_, say=quiet if json else console.note
    )
    if continue_ and run.state() == "done":
        raise typer.Exit(show_done(run, json))
    launch(run, detach=detach, json=json)


def quiet(line: str) -> None:
    """Says nothing: stdout and stderr are a program's."""


def launch(run: Any, *, detach: bool, json: bool) -> None:
    """Starts the engine on `run` and follows it to its end; leaves with the run's exit code."""
    from nothing_tune import run as runs
    from nothing_tune.cli import live

    if detach:
        runs.start(run)
        if json:
            console.out_json({"run": run.id, "path": str(run.path)})
        else:
            console.out(f"started {run.id}; look with: {console.ink().key(f'tune watch {live.called(run)}')}")
        return
    with live.caught() as presses:  # one that comes while the engine starts must reach it, too
        process = runs.start(run)
        if not json:
            live.show_header(run)
        code = live.follow(
            run,
            process=process,
            interrupt=lambda: runs.interrupt(run),
            alive=lambda: runs.alive(run),
            quiet=json,
            presses=presses,
        )
    if json:
        console.out_json(
            {"run": run.id, "path": str(run.path), **(run.result() or {"state": run.state(), "exit_code": code})}
        )
    raise typer.Exit(code)


def show_done(run: Any, json: bool) -> int:
    """Says that a run is done already, with its closing lines; returns the result's exit code."""
    from nothing_tune.cli import live

    if json:
        console.out_json({"run": run.id, "path": str(run.path), **(run.result() or {})})
        return 0
    console.note(f"run {run.id} is done already")
    return live.follow(run)


def _composed(recipe: str | None, model: str | None, data: str | None, method: str | None) -> tuple[str, list[str]]:
    """`(layer, overrides)` for `--model` and `--data`."""
    if recipe is not None:
        raise UsageError(
            f"a recipe ({recipe}) and --model, --data or --method are given",
            hint=f"with a recipe write: tune train {recipe} model.name_or_path=NAME data.train=FILE",
        )
    if not model or not data:
        raise UsageError(
            f"--{'data' if model else 'model'} is missing", hint="tune train --model ORG/NAME --data rows.jsonl"
        )
    from nothing_tune.run import compose

    return compose(model, data, method or "qlora")


def _dry(recipe: Any, plan: Any, json: bool) -> None:
    from nothing_tune.cli.view import header, plan_facts
    from nothing_tune.run import missing

    lacking = missing(recipe, plan)
    if json:
        console.out_json({"dry_run": True, "plan": plan.to_json(), "missing": [p.to_json() for p in lacking]})
        return
    paint = console.ink()
    data = jsonlib.loads(jsonlib.dumps(plan.to_json(), default=str))
    layers = " · ".join(layer.name for layer in recipe.layers)
    facts = {**{name: console.near(text) for name, text in plan_facts(data).items()}, "layers": layers}
    console.out(f"{paint.bold(plan.name)}  {paint.dim('dry run: nothing was made')}", *header(facts, paint))
    if lacking:
        console.out("", paint.warn("it could not start on this machine now:"))
        for problem in lacking:
            console.out(f"  {problem.what}", f"    {paint.dim(problem.hint)}")
