"""`tune watch`: attaches the live view to a run."""

from __future__ import annotations

import typer

from nothing_tune.cli import options
from nothing_tune.cli.help import RUNNING

EXAMPLES = (
    ("tune watch latest", "the newest run; Ctrl-C leaves it alone"),
    ("tune watch runs/nightly", "a run by its path; its id or the start of one does, too"),
)
EXITS = tuple(code for code in RUNNING if code not in (3, 4, 65, 77))


def command(run_id: options.RunId, runs_dir: options.RunsDir = None) -> None:
    """Attaches to a run; Ctrl-C only detaches."""
    from nothing_tune import run as runs
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli import live

    run = find_run(run_id, runs_root(runs_dir))
    live.show_header(run)
    raise typer.Exit(live.follow(run, alive=lambda: runs.alive(run)))
