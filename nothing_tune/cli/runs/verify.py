"""`tune runs verify`: re-hashes everything that is kept of runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

HELP = (
    "Reads everything that is kept of runs again, compares it with what was written, and says what a resume would do."
)
EXAMPLES = (("tune runs verify latest", "the newest run"), ("tune runs verify --all --json", "all runs, for a program"))
EXITS = (0, 2, 74)


def verify(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_ID...",
            help="Runs: an id, the start of one, a path, or `latest`.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every run of the folder.")] = False,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """One line for each run; leaves with 74 when something is damaged."""
    from nothing_tune import artifacts
    from nothing_tune import run as runs

    root = artifacts.runs_root(runs_dir)
    if bool(run_ids) == all_:
        what = "--all and runs are given" if all_ else "which runs? none is named"
        raise UsageError(what, hint="tune runs verify latest, or tune runs verify --all")
    names = artifacts.run_ids(root) if all_ else run_ids or []
    chosen = [artifacts.Run(root / n) if all_ else artifacts.find_run(n, root) for n in names]
    paint = console.ink()
    reports = []
    for run in chosen:
        report = runs.verify(run)
        reports.append(report)
        if not json:
            console.out(*_lines(report, paint))
    if json:
        console.out_json([_data(report) for report in reports])
    elif not reports:
        console.out(f"there is no run in {root}")
    if not all(report.ok for report in reports):
        raise typer.Exit(74)


def _lines(report: Any, paint: console.Ink) -> list[str]:
    count = len(report.checkpoints)
    if report.ok:
        what = f"{paint.ok('ok')}, {count} checkpoint{'' if count == 1 else 's'}, {console.size(report.checked)} read again"
    else:
        what = f"{paint.error('damaged')}, {'; '.join(map(console.printable, report.damaged))}"
    return [f"{report.run}: {what}; {report.resume}", *(paint.dim(f"  {text}") for text in report.remarks)]


def _data(report: Any) -> dict[str, Any]:
    return {
        "run": report.run,
        "ok": report.ok,
        "damaged": list(report.damaged),
        "remarks": list(report.remarks),
        "checkpoints": [{"step": step, "fault": why} for step, why in report.checkpoints.items()],
        "resume": report.resume,
        "checked_bytes": report.checked,
    }
