"""`tune stop`: asks the engine of a run to save and stop."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import RunError, UsageError

EXAMPLES = (
    ("tune stop latest", "stop the newest run, with a checkpoint"),
    ("tune stop latest --grace 300", "wait up to five minutes for it"),
)
EXITS = (0, 2, 5)


def command(
    run_id: options.RunId,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", min=0, help="How long to wait until it has stopped.")
    ] = 60.0,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Asks, waits, and says where the run stands."""
    from nothing_tune import run as runs
    from nothing_tune.artifacts import FINAL_STATES, find_run, runs_root
    from nothing_tune.cli.live import called

    run = find_run(run_id, runs_root(runs_dir))
    before = run.state()
    if not runs.alive(run):
        if before in FINAL_STATES:
            raise UsageError(
                f"run {run.id} is not running: it is {before}", hint=f"tune runs show {called(run)} tells more"
            )
        host = run.status().get("host")
        elsewhere = host and host != socket.gethostname()
        hint = f"it was started on {host}: stop it there" if elsewhere else f"tune resume {called(run)} continues it"
        raise UsageError(f"run {run.id} is held by no engine on this machine", hint=hint)
    if not json:
        console.note(f"stopping {run.id} at the end of its step…")
    state = runs.stop(run, grace)
    if state not in FINAL_STATES:
        raise RunError(
            f"run {run.id} has not stopped within {grace:g} s",
            hint=f"it still saves; look with: tune watch {called(run)}",
        )
    step = (run.result() or {}).get("step", run.status().get("step"))
    if json:
        console.out_json({"run": run.id, "state": state, "step": step})
    else:
        console.out(f"{state} at step {step}; continue with: {console.ink().key(f'tune resume {called(run)}')}")
