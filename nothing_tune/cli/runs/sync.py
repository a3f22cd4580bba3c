"""`tune runs sync`: sends a tracker what it has not been given. Reads the runs' events; imports the tracker's library only."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import Busy, Problem, UsageError

ABOUT = "Sends what a run's tracker has missed: its server was away, the machine was offline, the run was killed."
EXAMPLES = (
    ("tune runs sync latest", "send the newest run what its tracker missed"),
    ("tune runs sync --all", "send what is missing of all runs"),
    ("tune runs sync latest --tracker tensorboard", "send a run to another tracker"),
)
EXITS = (0, 2, 5, 77)
_WITHOUT = re.compile(r"[,;] or add tracking\..*")
"""What a tracker's hint says about training without it, which does not help one who wants to send."""


def sync(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_ID]...",
            help="Ids of runs, the start of one, paths, or `latest`.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Send what is missing of all runs that have a tracker.")] = False,
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="NAME", help="The tracker [default: the one of the run].")
    ] = None,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Sends run after run and says how many events each sent; a second time sends nothing.

    With `--all` an error is told and the next run sent; it leaves with the exit code of the first.
    """
    from nothing_tune import trackers
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.artifacts import run_ids as ids_in
    from nothing_tune.engine.delivery import deliver

    if bool(run_ids) == all_:
        raise UsageError(
            "give the runs to send, or --all" if not all_ else "--all sends all runs: name none beside it",
            hint="tune runs lists them",
        )
    if tracker is not None:
        trackers.find(tracker)
    root = runs_root(runs_dir)
    sent: list[dict[str, Any]] = []
    code = 0
    for word in ids_in(root) if all_ else run_ids or ():
        run = find_run(word, root)
        if all_:
            plan, damaged = console.outcome(run.plan)
            name = tracker or trackers.name_of(plan or {})
            if damaged or name == "none":
                continue
        else:
            name = tracker or trackers.name_of(run.plan())
            if name == "none":
                raise UsageError(f"run {run.id} has no tracker", hint="add --tracker NAME")
        count, error = console.outcome(partial(deliver, run, name))
        if isinstance(error, Busy) and all_:
            if not json:
                console.note(f"{run.id}: left out, its engine is sending it")
            continue
        if error is not None:
            problems = [_fitting(p, f"{run.id}: " if all_ else "") for p in error.problems]
            if not all_:
                error.problems = tuple(problems)
                raise error
            code = code or error.exit_code
            sent.append({"run": run.id, "tracker": name, "errors": [p.to_json() for p in problems]})
            if not json:
                console.show_problems(problems)
            continue
        sent.append({"run": run.id, "tracker": name, "events": count})
        if not json:
            what = f"{count} event{'s' * (count != 1)} sent to {name}" if count else f"{name} has everything"
            console.out(f"{run.id}: {what}")
    if json:
        console.out_json(sent)
    elif not sent:
        console.out("no run has anything to send")
    if code:
        raise typer.Exit(code)


def _fitting(problem: Problem, head: str) -> Problem:
    """`problem` as one reads it who wants to send a run; `head` names the run."""
    return replace(problem, what=f"{head}{problem.what}", hint=_WITHOUT.sub("", problem.hint))
