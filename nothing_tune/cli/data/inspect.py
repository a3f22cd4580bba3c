"""`tune data inspect`: what a model would learn from data, before a GPU is rented for it. The engine prepares the rows, as a job."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nothing_tune.cli import console, notices, options
from nothing_tune.cli.data import reading
from nothing_tune.errors import UsageError

if TYPE_CHECKING:
    from nothing_tune.plan import Plan

HELP = "Shows what a model would learn from data: rows, lengths, what is cut, left out, repeated, and what stands against it."
EXAMPLES = (
    ("tune data inspect quickstart", "the data of a recipe, as its model sees it"),
    ("tune data inspect rows.jsonl --model ORG/NAME", "a file, in tokens of a model"),
    ("tune data inspect marco --with models/nano --show 3", "three rows as the model sees them"),
    ("tune data inspect rows.jsonl data.truncation=split --json", "for a program"),
)
EXITS = (0, 2, 3, 4, 5, 74, 130)
DRAW_S = 0.1
"""Seconds between two drawings of the progress line."""
FOUND_ERRORS, INTERRUPTED = 2, 130
SHOWN = 3
"""Rows that are shown where only rows are asked for, and not how many."""
NANO = "models/nano"


def complete(incomplete: str) -> list[str]:
    """Recipes of the library, and all files and folders below the current one."""
    return list(dict.fromkeys([*options.complete_words(incomplete), *options.complete_data(incomplete)]))


def inspect(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE|RECIPE [KEY=VALUE]...",
            help="Data: a file, a folder, a pattern such as 'data/*.jsonl', a hub id. Or a recipe: a YAML file or a name of the "
            "library. Then values that override the recipe's: training.max_length=2048.",
            autocompletion=complete,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Whose tokens and template count, a hub id or a folder "
            "[default: the recipe's; for a source the model that ships with tune].",
        ),
    ] = None,
    gpu: options.Gpu = None,
    scenario: options.Scenario = None,
    with_: options.With = None,
    show: Annotated[
        int | None,
        typer.Option(
            "--show",
            metavar="N",
            min=1,
            help="Show N rows exactly as the model sees them, and what of them is learned.",
        ),
    ] = None,
    only_rows: Annotated[
        bool, typer.Option("--only-rows", help=f"Show these rows and not the report [N is {SHOWN} without --show].")
    ] = False,
    format_: reading.Format = None,
    columns: reading.Columns = None,
    speaker: reading.Speaker = None,
    turns: reading.Turns = None,
    json: options.Json = False,
) -> None:
    """Makes the plan, has the engine prepare its rows, and shows what came out; leaves with 2 where that must not be trained on."""
    from nothing_tune.cli.data import examples, page
    from nothing_tune.cli.data.drawing import columns as room
    from nothing_tune.plan import make_plan

    name, overrides = _words(words)
    overrides = [*_read_as(format_, columns, speaker, turns), *overrides]
    source = None if is_recipe(name) else name
    layer, composed = (name, _model(model)) if source is None else _composed(source, model, overrides)
    recipe = options.load(layer, gpu=gpu, scenario=scenario, with_=with_, overrides=[*composed, *overrides])
    plan = make_plan(recipe)
    _refuse_missing(recipe, plan, source)
    if source is None and not json:
        console.show_problems(recipe.advice)
    done = _prepared(plan, show or (SHOWN if only_rows else 0), json)
    report, shown = done.get("report") or {}, done.get("examples") or []
    paint = console.ink()
    if json:
        console.out_json({"examples": shown} if only_rows else {"report": report, "examples": shown})
    elif not only_rows:
        counted = f"of {NANO}; --model NAME counts yours" if source and not model else ""
        console.out(*page.lines(report, name, counted, room(), paint), *([""] if shown else []))
    if shown and not json:
        console.out(f"{paint.bold('as the model sees it')}  {examples.legend(paint)}")
        spelled = examples.spelled(report.get("findings") or [])
        console.out(*examples.lines(shown, console.width(), paint, str(report.get("truncation")), spelled))
    if only_rows and not json and page.worst(report) in ("error", "warning"):
        console.out("", f"{page.verdict(report, paint)}; without --only-rows they are told")
    if page.worst(report) == "error":
        sys.stdout.flush()
        raise typer.Exit(FOUND_ERRORS)


def _prepared(plan: Plan, show: int, json: bool) -> dict[str, Any]:
    """As `prepare`; files that cannot be read are told before the engine starts, with short paths for people, and Ctrl-C is answered."""

    def call() -> dict[str, Any]:
        _open(plan)
        return prepare(plan.to_json(), show, quiet=json)

    try:
        done, error = console.outcome(call)
    except KeyboardInterrupt:
        console.note("stopped; nothing was kept")
        raise typer.Exit(INTERRUPTED) from None
    if error is not None:
        raise error if json else type(error)(*map(notices.near, error.problems)) from error
    return done or {}


def _open(plan: Plan) -> None:
    """Looks at the first rows of every file, as the engine will do; what lies on the hub is left to it."""
    from nothing_tune.data import sources
    from nothing_tune.run.missing import named

    for key in ("train", "eval"):
        found = named(plan, key)
        if found and all(sources.is_file(one.name) for one in found) and "${" not in str(plan.data[key]):
            sources.open_all(plan.data[key], plan.data, f"data.{key}")


def prepare(plan: dict[str, Any], show: int, quiet: bool = False) -> dict[str, Any]:
    """The event `report` of the job `inspect`; draws its progress on a terminal. Raises what the job reports as error."""
    from nothing_tune.cli.jobs import job

    data = dict(plan.get("data") or {})
    allowed = float(data.get("max_bad_rows") or 0.0)
    plan = {**plan, "data": {**data, "max_bad_rows": 1.0}}  # all is shown, and then what a training refuses
    line = Progress(quiet)
    with job(["inspect"], "the inspection") as running:
        running.send({"plan": jsonlib.loads(jsonlib.dumps(plan, default=str)), "show": show})
        try:
            while (event := running.read())["type"] != "report":
                if event["type"] == "progress":
                    line.draw(event)
        finally:
            line.clear()
    return {**event, "report": refused(event.get("report") or {}, allowed)}


def refused(report: dict[str, Any], allowed: float) -> dict[str, Any]:
    """The report, with an error where more rows are bad than the share `allowed` (0 to 1): a training would not start."""
    from nothing_tune.data.rows import too_many

    bad = report.get("bad_rows") or {}
    problem = too_many(int(bad.get("count") or 0), int(bad.get("read") or 0), allowed)
    if problem is None:
        return report
    error = {"severity": "error", "what": problem.what, "hint": problem.hint, "key": problem.key, "rows": []}
    others = [f for f in report.get("findings") or [] if f.get("key") != "data.max_bad_rows"]
    return {**report, "findings": [error, *others]}


class Progress:
    """One line that is drawn anew on a terminal; nothing anywhere else."""

    def __init__(self, quiet: bool = False) -> None:
        self.on = console.is_terminal() and not quiet
        self.drawn = 0.0
        if self.on:
            self._write(f"  {console.ink().dim('starting the engine…')}")

    def draw(self, event: dict[str, Any]) -> None:
        """Draws `what`, `rows` and `share` of a progress event, ten times a second at most."""
        now = time.monotonic()
        if not self.on or now - self.drawn < DRAW_S:
            return
        self.drawn = now
        paint, share = console.ink(), event.get("share")
        what, rows = console.printable(str(event.get("what") or "reading")), int(event.get("rows") or 0)
        text = f"  {what}  "
        if isinstance(share, int | float):
            full = int(min(max(share, 0.0), 1.0) * 32)
            text += f"{paint.key('━' * full)}{paint.dim('─' * (32 - full))}  {share * 100:.0f} %  "
        self._write(text + paint.dim(console.plural(rows, "row")))

    def clear(self) -> None:
        """Takes the line away."""
        if self.on:
            self._write("")
            self.on = False

    def _write(self, text: str) -> None:
        sys.stdout.write(f"\r\x1b[2K{console.cut_coloured(text, (console.width() or 80) - 1)}")
        sys.stdout.flush()


def is_recipe(name: str) -> bool:
    """Whether a word is a recipe: a YAML file, or a name of the library that is no file here."""
    from nothing_tune.recipe.library import names

    path = Path(name)
    return path.suffix in (".yaml", ".yml") or (not path.is_file() and name in names("recipes"))


def _words(words: Sequence[str] | None) -> tuple[str, list[str]]:
    """`(source or recipe, overrides)`; `UsageError` unless exactly one is named."""
    rest = [w for w in words or () if not options.is_override(w)]
    overrides = [w for w in words or () if options.is_override(w)]
    if not rest:
        raise UsageError("which data? none is named", hint="tune data inspect rows.jsonl; or a recipe: quickstart")
    if len(rest) > 1:
        raise UsageError(
            f"two sources are given: {rest[0]} and {rest[1]}",
            hint="a pattern needs quotes: 'data/*.jsonl'; several sources mix in a recipe, as a list in data.train",
        )
    _refuse_typo(rest[0])
    return rest[0], overrides


def _refuse_typo(name: str) -> None:
    """A word that is nothing here but nearly a recipe's name is taken for a mistake, not for a data set of the hub."""
    from nothing_tune.recipe.library import names

    known = names("recipes")
    if "/" in name or name in known or Path(name).exists() or Path(name).suffix:
        return
    near = get_close_matches(name, known, n=1, cutoff=0.8)
    if near:
        raise UsageError(f"no file, folder or recipe {name}", hint=f"did you mean {near[0]}?")


def _refuse_missing(recipe: Any, plan: Any, source: str | None) -> None:
    """`UsageError` where data or model are not on this machine; what else a training lacks is no matter here."""
    from nothing_tune.run import missing

    lacking = [p for p in missing(recipe, plan) if p.key.startswith(("data", "model"))]
    if source is None:
        lacking = [replace(p, hint=p.hint.replace("tune train ", "tune data inspect ")) for p in lacking]
    else:
        cure = "name a file, a folder, a pattern in quotes, a hub id or a recipe"
        lacking = [
            replace(
                p, what=p.what.removeprefix("data.train: "), layer="", hint=p.hint if "did you mean" in p.hint else cure
            )
            if p.key == "data.train"
            else p
            for p in lacking
        ]
    if lacking:
        raise UsageError(*lacking)


def _model(model: str | None) -> list[str]:
    """Overrides that put another model into a recipe."""
    from nothing_tune.recipe.library import base_model

    return [f"model.name_or_path={jsonlib.dumps(base_model(model))}", "model.revision=null"] if model else []


def _read_as(format_: str | None, columns: Sequence[str] | None, speaker: str | None, turns: int | None) -> list[str]:
    """Overrides for what the options say about how rows are read."""
    said = {
        "format": format_,
        "columns": reading.mapping(columns) or None,
        "transcript.speaker": speaker,
        "transcript.turns": turns,
    }
    return [f"data.{key}={jsonlib.dumps(value)}" for key, value in said.items() if value is not None]


def _composed(source: str, model: str | None, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """`(layer, overrides)` of a recipe that trains on `source`, on the shipped model where none is named; on all of it unless
    the command line says what to evaluate on."""
    from nothing_tune.run import compose

    layer, composed = compose(model or NANO, source)
    if not any(o.startswith("data.eval=") for o in overrides):
        composed += ["data.eval=null", "training.eval_strategy=no", "training.load_best_model_at_end=false"]
    return layer, composed
