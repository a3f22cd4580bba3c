"""`tune resume`: continues a run at its newest checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.help import RUNNING
from nothing_tune.cli.train import launch
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune resume", "the newest run that is not done"),
    ("tune resume latest", "the newest run"),
    ("tune resume latest training.num_train_epochs=5", "train on: what may grow, may grow"),
)
EXITS = RUNNING


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_ID] [KEY=VALUE]...",
            help="A run's id, the start of one, its path, or `latest` [default: the newest that is not done]. Then values "
            "that may change, such as training.num_train_epochs=5.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ] = None,
    runs_dir: options.RunsDir = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the run's result as JSON when it ends, and nothing before.")
    ] = False,
) -> None:
    """Finds the run, checks what would change, and goes on."""
    from nothing_tune import run as runs
    from nothing_tune.artifacts import Run, find_run, run_ids, runs_root

    names = [w for w in words or () if not options.is_override(w)]
    if len(names) > 1:
        raise UsageError(f"two runs are given: {names[0]} and {names[1]}", hint="an override is written KEY=VALUE")
    root = runs_root(runs_dir)
    if names:
        run = find_run(names[0], root)
    else:
        unfinished = [
            r for i in reversed(run_ids(root)) if (r := Run(root / i)).state() != "done" and not runs.alive(r)
        ]
        begun = (r for r in unfinished if next(r.checkpoints.glob("checkpoint-*/COMMIT.json"), None))
        found = next(begun, None) or next(iter(unfinished), None)
        if found is None:
            raise UsageError(
                f"there is no unfinished run in {root}", hint="tune runs lists all; tune train makes a new one"
            )
        run = found
        if not json:
            console.note(f"resuming {run.id}, the newest run that is not done")
    run = runs.resume(run, [w for w in words or () if options.is_override(w)])
    launch(run, detach=detach, json=json)
