"""`tune runs fork`: a child run that starts from a checkpoint of another run, with other settings."""

from __future__ import annotations

from json import dumps
from typing import Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.help import RUNNING
from nothing_tune.cli.runs.pin import complete_steps
from nothing_tune.cli.train import launch
from nothing_tune.errors import UsageError

HELP = "Starts a child run from a checkpoint of a run, with other settings; the run itself stays as it is."
EXAMPLES = (
    ("tune runs fork latest training.learning_rate=5e-5", "go on from its newest checkpoint, gentler"),
    ("tune runs fork latest --from best data.train=more.jsonl", "train its best weights on other data, from step 0"),
    ("tune runs fork latest --restart --no-start", "make a run with its weights, and start it later"),
)
EXITS = RUNNING


def complete_starts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Steps of the run's checkpoints, and `best`."""
    return [*complete_steps(ctx, incomplete), *(["best"] if "best".startswith(incomplete) else [])]


def fork(
    run_id: options.RunId,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings of the child that differ: training.learning_rate=5e-5; ~KEY removes a value.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP",
            help="Step of the checkpoint to start from, or `best` [default: the newest complete one].",
            autocompletion=complete_starts,
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Take only the weights along: a new count from step 0 with a new optimizer."),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="RUN_ID",
            help="The child's id, 2 to 128 lower-case letters, digits, dots, dashes, underscores "
            "[default: date, recipe, GPU].",
        ),
    ] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Make the child without starting it.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the child and return at once.")] = False,
    deadline: options.Deadline = None,
    drift: options.AllowVersionDrift = False,
    runs_dir: options.RunsDir = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the child's result as JSON when it ends, and nothing before.")
    ] = False,
) -> None:
    """Makes the child, says what it is, and follows its training."""
    from nothing_tune import run as runs
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli.live import called

    wrong = next((w for w in words or () if not options.is_override(w)), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} is no override", hint="an override is written KEY=VALUE, without spaces")
    root, overrides = runs_root(runs_dir), list(words or ())
    if deadline is not None:
        overrides.append(f"checkpoint.deadline={dumps(deadline)}")
    if drift:
        options.allow_version_drift()
    made = runs.fork(find_run(run_id, root), root, overrides, start=start, name=name, restart=restart, waits=no_start)
    if not json:
        console.out(made.line())
    if not no_start:
        launch(made.run, detach=detach, json=json)
    elif json:
        parent = {"run": made.parent, "step": made.step, "mode": made.mode, "changed": made.changed}
        console.out_json({"run": made.run.id, "path": str(made.run.path), "parent": parent})
    else:
        console.out(f"start it with: {console.ink().key(f'tune resume {called(made.run)}')}")
