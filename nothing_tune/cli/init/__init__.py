"""`tune init`: a recipe for a model and data of one's own, from a few questions or from options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import Problem, UsageError

EXAMPLES = (
    ("tune init", "a few questions; Enter takes the default of each"),
    ("tune init my.yaml --model nano --data rows.jsonl --yes", "no questions: defaults for the rest"),
    ("tune init --model ORG/NAME --gpu l4 --data rows.csv --columns text=body", "ask what is left"),
    ("tune init --model nano --data rows.jsonl --yes --dry-run", "show the recipe, write nothing"),
)
EXITS = (0, 2, 3, 74, 130)
ANSWERS = ("model", "gpu", "method", "data", "goal", "eval", "tracker", "name")
"""Options that are questions; without a terminal each of them is given, or --yes."""
NEEDED = ("model", "data")
"""Of these, the ones that --yes does not answer."""


def _option(name: str, metavar: str, text: str, complete: Any = None) -> Any:
    return typer.Option(f"--{name}", metavar=metavar, help=text, autocompletion=complete)


def command(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The recipe to write [default: NAME.yaml].", show_default=False),
    ] = None,
    model: Annotated[
        str | None, _option("model", "NAME", "The base model: a hub id, a folder, or a name of `tune list models`.")
    ] = None,
    gpu: Annotated[
        str | None,
        _option(
            "gpu", "NAME", "Where it will train: `here`, or a GPU of the library.", options.complete_library("gpus")
        ),
    ] = None,
    method: Annotated[
        str | None, _option("method", "NAME", "How: see `tune list methods`.", options.complete_library("methods"))
    ] = None,
    data: Annotated[
        str | None,
        _option("data", "SOURCE", "The training data: a file, folder, pattern or hub id.", options.complete_data),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns", metavar="A=B", help="The format's column A is called B in the file; may be given again."
        ),
    ] = None,
    speaker: Annotated[str | None, _option("speaker", "NAME", "Of a chat log: whose lines are learned.")] = None,
    goal: Annotated[
        str | None, _option("goal", "GOAL", "chat, instruction, function-calling, style or completion.")
    ] = None,
    eval_: Annotated[
        str | None,
        _option("eval", "SHARE", "Rows held out for validation, 10 to 20 %; or a source of its own, or none."),
    ] = None,
    tracker: Annotated[str | None, _option("tracker", "NAME", "none, tensorboard or wandb.")] = None,
    name: Annotated[str | None, _option("name", "NAME", "The recipe's name, and its runs'.")] = None,
    rank: Annotated[str | None, _option("rank", "N", "Rank of the adapter, 4 to 64.")] = None,
    alpha: Annotated[str | None, _option("alpha", "N", "LoRA's alpha; usually one or two times the rank.")] = None,
    dropout: Annotated[str | None, _option("dropout", "SHARE", "LoRA's dropout, 0 to 0.1.")] = None,
    lr: Annotated[str | None, _option("lr", "X", "Learning rate, 1e-6 to 1e-2.")] = None,
    epochs: Annotated[str | None, _option("epochs", "N", "Passes over the data, 1 to 10.")] = None,
    batch: Annotated[str | None, _option("batch", "N", "Rows on the GPU at once, 1 to 32.")] = None,
    accumulation: Annotated[str | None, _option("accumulation", "N", "Batches that make a step, 1 to 32.")] = None,
    max_length: Annotated[str | None, _option("max-length", "N", "Tokens that a row has at most.")] = None,
    warmup: Annotated[str | None, _option("warmup", "N", "Steps of warmup, 0 to 1000, or a share below 1.")] = None,
    packing: Annotated[str | None, _option("packing", "YES|NO", "Whether short rows share a sequence.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: defaults for all that is not given.")] = False,
    no_look: Annotated[bool, typer.Option("--no-look", help="Do not read data of the hub.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe, and write nothing.")] = False,
    json: options.Json = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The same as FILE.")] = None,
) -> None:
    """Asks, reviews, checks, writes."""
    given = {
        "model": model, "gpu": gpu, "method": method, "data": data, "speaker": speaker, "goal": goal, "eval": eval_,
        "tracker": tracker, "name": name, "rank": rank, "alpha": alpha, "dropout": dropout, "lr": lr, "epochs": epochs,
        "batch": batch, "accumulation": accumulation, "max_length": max_length, "warmup": warmup, "packing": packing,
    }  # fmt: skip
    answers = {key: value for key, value in given.items() if value is not None}
    if columns and "data" in answers:
        answers["data"] = " ".join([answers["data"], *columns])
    missing = [a for a in (NEEDED if yes else ANSWERS) if a not in answers]
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not json
    if missing and (yes or not terminal):
        raise UsageError(_missing(missing, yes, "json" if json else ""))
    if file is not None and out is not None and file != out:
        raise UsageError(Problem(f"two files are named: {file} and {out}", hint="give one of them"))
    _run(answers, file or out, ask=bool(missing), look=not no_look, force=force, dry_run=dry_run, json=json)


def _missing(missing: list[str], yes: bool, why: str) -> Problem:
    flags = ", ".join(f"--{name}" for name in missing)
    where = "" if yes else "with --json nothing is asked, and " if why else "this is no terminal to ask on, and "
    hint = "tune init --help tells what each may be"
    if not yes and (rest := [n for n in NEEDED if n in missing]):
        hint = f"--yes takes the defaults of all but {' and '.join(f'--{n}' for n in rest)}"
    elif not yes:
        hint = "--yes takes the defaults"
    return Problem(f"{where}{flags} {'is' if len(missing) == 1 else 'are'} missing", hint=hint)


def _run(
    answers: dict[str, str], file: Path | None, *, ask: bool, look: bool, force: bool, dry_run: bool, json: bool
) -> None:
    from nothing_tune.cli.init import wizard, writing
    from nothing_tune.cli.init.state import State

    state = State(given=answers, out=file, look=look, force=force or dry_run)
    if file is not None and not dry_run:
        writing.check_file(file, force)
    _knobs(state)
    try:
        if ask:
            wizard.interview(state)
            _knobs_of_method(state)
            wizard.look_over(state)
        else:
            _given(state)
            _knobs_of_method(state)
        settled = writing.settle(state)
        made = writing.draft(state, settled) if dry_run else writing.write(state, settled)
    except (KeyboardInterrupt, EOFError):
        console.out("")
        console.note("nothing was written")
        raise typer.Exit(130) from None
    if json:
        console.out_json(_told(state, state.file, made, settled, not dry_run))
    elif dry_run:
        console.show_problems(settled.warnings)
        console.out(made.text.rstrip("\n"))
    else:
        console.show_problems([*settled.recipe.advice, *(() if ask else settled.warnings)])  # the review has shown them
        _next(state, state.file)


def _knobs(state: Any) -> None:
    """Reads the knobs that were given; all that is wrong with them at once."""
    from nothing_tune.cli.init.questions import read_knob
    from nothing_tune.recipe.defaults import KNOBS

    problems: list[Problem] = []
    for name in (n for n in KNOBS if n in state.given):
        value, error = console.outcome(lambda name=name: read_knob(name, state.given[name], flag(name)))  # type: ignore[misc]
        state.values[name] = value
        problems += error.problems if error else ()
    if problems:
        raise UsageError(*problems)


def flag(name: str) -> str:
    """`--max-length`."""
    return f"--{name.replace('_', '-')}"


def _knobs_of_method(state: Any) -> None:
    from nothing_tune.cli.init.state import refused
    from nothing_tune.recipe.defaults import KNOBS, knobs

    own = knobs(state.method)
    wrong = [n for n in KNOBS if n in state.given and n not in own]
    if wrong:
        raise UsageError(
            *(Problem(f"--{n} is LoRA's, and {state.method} has none", hint=f"leave --{n} out") for n in wrong)
        )
    refusals = [refused(state, n, state.values[n]) for n in KNOBS if n in state.given]
    if told := [r for r in refusals if r]:
        raise UsageError(*told)


def _given(state: Any) -> None:
    """Reads the answers that were given and takes the defaults of the others."""
    from nothing_tune.cli.init.questions import QUESTIONS

    for question in QUESTIONS:
        if not question.when(state):
            if question.name in state.given:
                told = f"--{question.name} is for a chat log, and {state.data.source} has rows of {state.data.format}"
                raise UsageError(Problem(told, hint=f"leave --{question.name} out"))
            continue
        text = state.given.get(question.name)
        if text is None:
            if question.name not in ANSWERS:
                many = ", ".join(state.data.speakers)
                raise UsageError(
                    Problem(f"--{question.name} is missing: {state.data.source} is a chat log", hint=f"one of: {many}")
                )
            text = question.default(state)[0]
        state.values[question.name] = question.read(state, text)
        state.given.setdefault(question.name, text)


def _told(state: Any, path: Path, made: Any, settled: Any, written: bool) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "path": str(path),
        "written": written,
        "answers": dict(state.given),
        "layers": list(made.layers),
        "settings": [{"key": s.key, "value": s.value, "why": s.why} for s in made.settings],
        "data": {"format": state.data.format, "rows": state.data.rows, "estimated": state.data.about},
        "gpu": settled.plan.gpu.get("name"),
        "warnings": [p.to_json() for p in settled.warnings],
        "text": made.text,
    }


def _next(state: Any, path: Path) -> None:
    paint = console.ink()
    flag = "" if state.gpu.here else f" --gpu {state.gpu.name}"
    console.out(f"{paint.ok('wrote')} {path}")
    for word, line in (
        ("plan", f"tune plan {path}{flag}"),
        ("rehearse", f"tune train {path}{flag} --rehearse"),
        ("run", f"tune train {path}{flag}"),
    ):
        console.out(f"  {word.ljust(8)}  {paint.key(line)}")
