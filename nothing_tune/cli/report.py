"""`tune report`: all about a run as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import StorageError, UsageError

EXAMPLES = (
    ("tune report latest", "the newest run, as report.html in its folder"),
    ("tune report ONE OTHER --output both.html", "two runs side by side, up to six"),
)
EXITS = (0, 2, 74)
MOST = 6
NAME = "report.html"
LONGEST = 120
"""Bytes of a file's name, below what any disk takes."""


def command(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_ID [RUN_ID]...",
            help="A run, or up to six that are shown side by side: ids, the starts of ids, paths, or `latest`.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write it [default: report.html in the run's folder; of several runs report-ONE-OTHER.html beside them].",
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Writes a page that needs no network: settings, data, curves, evaluations, exports; fit to be sent or printed."""
    from nothing_tune import __version__
    from nothing_tune.artifacts import Run, find_run, runs_root
    from nothing_tune.cli.runs.row import attempt_rows, fault_rows
    from nothing_tune.outputs import comparison, report

    def told(run: Run) -> report.Told:
        plan = console.outcome(run.plan)[0] or {}
        attempts = console.outcome(lambda: attempt_rows(run))[0] or []
        events = console.outcome(lambda: fault_rows(run))[0] or []
        return report.Told(comparison.gathered(run), dict(plan.get("why") or {}), attempts, events, report.serving(run))

    root = runs_root(runs_dir)
    runs = list({run.path: run for run in (find_run(name, root) for name in run_ids)}.values())
    if len(runs) > MOST:
        raise UsageError(f"{len(runs)} runs are too many for one page", hint=f"give up to {MOST}")
    several = len(runs) > 1
    path = output or (runs[0].path.parent if several else runs[0].path)
    if path.is_dir():
        path = path / (_name([run.id for run in runs]) if several else NAME)
    text = report.page([told(run) for run in runs], __version__)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}", hint="choose another file with --output"
        ) from error
    if open_:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
    if json:
        console.out_json({"report": str(path), "runs": [run.id for run in runs], "bytes": path.stat().st_size})
    else:
        console.out(f"wrote {console.near(str(path))}  {console.ink().dim(console.size(path.stat().st_size))}")


def _name(ids: Sequence[str]) -> str:
    """The file of several runs: `report-ONE-OTHER.html`; where that would be too long, of the first and a number."""
    whole = f"report-{'-'.join(ids)}.html"
    return whole if len(whole.encode()) <= LONGEST else f"report-{ids[0]}-and-{len(ids) - 1}-more.html"
