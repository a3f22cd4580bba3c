"""`tune resume`: continues a run at its newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.help import RUNNING
from nothing_tune.cli.train import launch, quiet
from nothing_tune.errors import UsageError

if TYPE_CHECKING:
    from nothing_tune.artifacts import Run

EXAMPLES = (
    ("tune resume", "the newest run that is not done"),
    ("tune resume latest", "the newest run"),
    ("tune resume latest training.num_train_epochs=5", "train on: what may grow, may grow"),
    ("tune resume latest --deadline 3h30m", "save and stop in time"),
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
    deadline: options.Deadline = None,
    drift: options.AllowVersionDrift = False,
    runs_dir: options.RunsDir = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the run's result as JSON when it ends, and nothing before.")
    ] = False,
) -> None:
    """Finds the run, checks what would change, and goes on."""
    from nothing_tune import run as runs
    from nothing_tune.artifacts import find_run, runs_root

    if drift:
        options.allow_version_drift()
    names = [w for w in words or () if not options.is_override(w)]
    overrides = [w for w in words or () if options.is_override(w)]
    if deadline is not None:
        overrides.append(f"checkpoint.deadline={dumps(deadline)}")
    if len(names) > 1:
        raise UsageError(f"two runs are given: {names[0]} and {names[1]}", hint="an override is written KEY=VALUE")
    say = quiet if json else console.note
    root = runs_root(runs_dir)
    run = find_run(names[0], root) if names else _newest(root, say)
    launch(runs.resume(run, overrides, say), detach=detach, json=json)


def _newest(root: Path, say: Callable[[str], None]) -> Run:
    """The newest run that is not done and that nobody works on; one with a checkpoint before all others. Says which."""
    from nothing_tune import run as runs
    from nothing_tune.artifacts import Run, run_ids

    free: list[Run] = []
    held: list[Run] = []
    for found in (Run(root / i) for i in reversed(run_ids(root))):
        if (found.path / "plan.json").is_file() and found.state() != "done":
            (held if runs.alive(found) else free).append(found)
    if not free:
        which = f" but {held[0].id}, which goes on now" if held else ""
        hint = f"tune watch {held[0].id} shows it" if held else "tune runs lists all; tune train makes a new one"
        raise UsageError(f"there is no unfinished run in {root}{which}", hint=hint)
    begun = [r for r in free if next(r.checkpoints.glob("checkpoint-*/COMMIT.json"), None)]
    run = (begun or free)[0]
    if not begun:
        say(f"resuming {run.id} from its start: it has no checkpoint")
    elif run is not free[0]:
        say(f"resuming {run.id}, the newest unfinished run with a checkpoint; {free[0].id} has none")
    else:
        say(f"resuming {run.id}, the newest run that is not done" + (", but for those that go on now" if held else ""))
    return run
