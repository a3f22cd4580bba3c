"""`tune train`: recipe -> plan -> run -> engine, then the live view."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.help import RUNNING
from nothing_tune.errors import PlanError, Problem, UsageError

EXAMPLES = (
    ("tune train quickstart", "the model that ships with tune, on any machine"),
    ("tune train quickstart training.learning_rate=1e-3 --max-steps 20", "with other values"),
    ("tune train nothing-gpt --gpu l4 --scenario debug --dry-run", "what would happen, without doing it"),
    ("tune train marco --with models/nano", "rehearse a recipe on its sample, on a CPU"),
    ("tune train --model ORG/NAME --data rows.jsonl --method lora", "without a recipe"),
    ("tune train function-calling --max-samples 1000 --merge --gguf q4_k_m", "and make of it what others can load"),
    ("tune train quickstart --name nightly --continue --deadline 23h50m", "start, or go on where it stopped"),
)
EXITS = (*RUNNING[:5], 7, *RUNNING[5:])


def command(
    words: options.Words = None,
    gpu: options.Gpu = None,
    scenario: options.Scenario = None,
    with_: options.With = None,
    unset: options.Unset = None,
    model: options.Model = None,
    data: options.Data = None,
    method: options.Method = None,
    max_samples: Annotated[
        int | None,
        typer.Option("--max-samples", metavar="N", min=1, help="Train on at most N rows: data.max_samples=N."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", metavar="N", min=1, help="Stop after N steps: training.max_steps=N.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into the base at the end: export.merge=true.")
    ] = False,
    gguf: Annotated[
        list[str] | None,
        typer.Option(
            "--gguf",
            metavar="TYPES",
            help="Make GGUF files at the end, q4_k_m or q8_0,f16: export.gguf=[...].",
            show_default=False,
        ),
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
    plan_file: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Train what tune plan --save wrote, and refuse where recipe, data or versions have changed since.",
            show_default=False,
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Start although the plan says that it cannot fit or cannot train.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, and make nothing.")] = False,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Run the whole recipe on this CPU in a minute, its model made small; keep nothing."
        ),
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the run's result as JSON when it ends, and nothing before.")
    ] = False,
) -> None:
    """Resolves the recipe, makes the run, starts the engine and follows it."""
    from nothing_tune.artifacts import check_name, runs_root, write_json
    from nothing_tune.plan import forecast as forecasts
    from nothing_tune.plan import make_plan
    from nothing_tune.run import untracked

    if continue_ and not name:
        raise UsageError("--continue needs --name", hint="tune resume latest continues the newest run")
    if dry_run and name:
        check_name(name, None if continue_ else runs_root(runs_dir))
    saved = None
    if plan_file:
        from nothing_tune.run import saved as plans

        saved = plans.load(plan_file)
        if not (options.split_words(words)[0] or model or data or method):
            said = saved.words
            words = [said["recipe"], *said["overrides"], *(words or ())]
            gpu, scenario = gpu or said["gpu"], scenario or said["scenario"]
            with_, unset = with_ or said["with"], unset or said["unset"]
    recipe_name, overrides = options.recipe_or_composed(words, model, data, method, "train")
    composed = len(overrides) - len(options.split_words(words)[1])
    if max_samples is not None:
        overrides.append(f"data.max_samples={max_samples}")
    if max_steps is not None:
        overrides.append(f"training.max_steps={max_steps}")
    if merge:
        overrides.append("export.merge=true")
    if gguf:
        from nothing_tune.cli.export import checked

        overrides.append(f"export.gguf={jsonlib.dumps(checked(','.join(gguf).split(',')))}")
    if deadline is not None:
        overrides.append(f"checkpoint.deadline={jsonlib.dumps(deadline)}")
    if drift:
        options.allow_version_drift()
    recipe = options.load(recipe_name, gpu=gpu, scenario=scenario, with_=with_, overrides=overrides, unset=unset)
    plan = make_plan(recipe)
    if saved:
        plans.refuse_drift(saved, recipe, plan)
    if not json:
        console.show_problems([*recipe.advice, *(untracked(plan) if dry_run else ())])
        if model:
            console.note(f"composed a recipe from {recipe_name} for {model}; the run keeps it as recipe.yaml")
    if dry_run:
        _dry(recipe, plan, json, saved)
        return
    if rehearse:
        from nothing_tune.cli import rehearsal

        typed = (gpu, scenario, with_, overrides[composed:], unset, (model, data, method) if model else None)
        again, look = (rehearsal.command_line(recipe_name, *typed, do=do) for do in ("train", "data inspect"))
        rehearsal.rehearse(recipe, plan, again, json, look)
        return

    from nothing_tune import run as runs

    root = runs_root(runs_dir)
    begun = bool(continue_ and name and (root / name / "plan.json").is_file())
    found = None if begun else _forecast(plan, root, saved)
    if found and not anyway and (problems := forecasts.impossible(found)):
        raise PlanError(*problems)
    run = runs.prepare(recipe, plan, root=root, name=name, continue_=continue_, say=quiet if json else console.note)
    if continue_ and run.state() == "done":
        raise typer.Exit(show_done(run, json))
    if found:
        write_json(run.path / "forecast.json", found.to_json())
    launch(run, detach=detach, json=json, found=found)


def quiet(line: str) -> None:
    """Says nothing: stdout and stderr are a program's."""


def _forecast(plan: Any, root: Path | None = None, saved: Any = None) -> Any:
    """What the plan will do, from what can be had in a moment: small data is counted, tokens are the engine's business.

    Raises:
        UsageError: More rows cannot be read than the recipe allows.
    """
    from nothing_tune.run import forecast

    rows, error = (
        (saved.rows, None) if saved else console.outcome(lambda: forecast.counted(plan, forecast.COUNTS_UP_TO))
    )
    if error or rows is None:
        return None  # what is wrong with the data is told where it is opened
    bad = [f for f in rows.findings if f["severity"] == "error"]
    if bad and not saved:
        named = [Problem(f"{where}: {why}") for f in bad for where, why in f.get("named") or ()]
        raise UsageError(*named, *(Problem(f["what"], f["key"], hint=f["hint"]) for f in bad))
    return forecast.forecast(plan, rows, fetch=False, runs=root)


def launch(run: Any, *, detach: bool, json: bool, found: Any = None) -> None:
    """Starts the engine on `run` and follows it to its end; leaves with the run's exit code.

    Args:
        found: The forecast of a new run, which is shown before it starts.
    """
    from nothing_tune import run as runs
    from nothing_tune.cli import live
    from nothing_tune.cli.export import following

    exports = following.wanted(run)
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
            live.show_header(run, found)
        code = live.follow(
            run,
            process=process,
            interrupt=lambda: runs.interrupt(run),
            alive=lambda: runs.alive(run),
            quiet=json,
            presses=presses,
            lingers=exports,
        )
    result = {"run": run.id, "path": str(run.path), **(run.result() or {"state": run.state(), "exit_code": code})}
    if exports and code == 0:
        code, result["export"] = following.follow(run, process, quiet=json)
    if json:
        console.out_json(result)
    raise typer.Exit(code)


def show_done(run: Any, json: bool) -> int:
    """Says that a run is done already, with its closing lines; returns the result's exit code."""
    from nothing_tune.cli import live

    if json:
        console.out_json({"run": run.id, "path": str(run.path), **(run.result() or {})})
        return 0
    console.note(f"run {run.id} is done already")
    return live.follow(run)


def _dry(recipe: Any, plan: Any, json: bool, saved: Any = None) -> None:
    from nothing_tune.cli.plan import page
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
    found = _forecast(plan, saved=saved)
    facts |= page.facts(found, paint) if found else {}
    console.out(
        f"{paint.bold(plan.name)}  {paint.dim('dry run: nothing was made')}",
        *header(facts | (page.facts(found, paint) if found else {}), paint),
    )
    console.out(*(page.warnings(found, paint) if found else ()))
    if lacking:
        console.out("", paint.warn("it could not start on this machine now:"))
        for problem in lacking:
            console.out(f"  {problem.what}", f"    {paint.dim(problem.hint)}")
