"""`tune runs rm`: moves runs to a trash that can be emptied, and gives them back."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

HELP = "Moves runs to a trash beside them. Only --empty deletes; --restore gives a run back."
EXAMPLES = (
    ("tune runs rm latest", "the newest run"),
    ("tune runs rm --restore RUN_ID", "give it back"),
    ("tune runs rm --empty", "delete what is in the trash, after asking"),
)
EXITS = (0, 2, 74, 77)


def complete_trash(incomplete: str) -> list[str]:
    """Ids of the runs in the trash, for the shell."""
    from nothing_tune.artifacts import runs_root
    from nothing_tune.run import trash

    return sorted({t.run for t in trash.trashed(runs_root()) if t.run.startswith(incomplete)})


def rm(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_ID...",
            help="Runs: an id, the start of one, or `latest`.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ] = None,
    restore: Annotated[
        str | None,
        typer.Option(
            "--restore", metavar="RUN_ID", help="Give this run back from the trash.", autocompletion=complete_trash
        ),
    ] = None,
    empty: Annotated[bool, typer.Option("--empty", help="Delete for good what is in the trash.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --empty: do not ask.")] = False,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Moves, gives back or deletes, one of the three."""
    from nothing_tune.artifacts import find_own, runs_root
    from nothing_tune.run import trash

    root = runs_root(runs_dir)
    if (bool(run_ids) + bool(restore) + empty) != 1:
        raise UsageError(
            "give runs to remove, or --restore RUN_ID, or --empty, and one of them alone",
            hint="tune runs lists the runs",
        )
    if restore:
        back = trash.restore(restore, root)
        if json:
            console.out_json({"restored": back.id, "path": str(back.path)})
        else:
            console.out(f"gave back {back.id}; tune runs show {back.id} tells about it")
        return
    if empty:
        _empty(root, yes, json)
        return
    found = list({run.id: run for run in (find_own(name, root) for name in run_ids or [])}.values())
    more = f" --runs-dir {runs_dir}" if runs_dir else ""
    moved: list[Any] = []
    for run in found:
        moved.append(trash.remove(run, root))
        if not json:
            back_with = console.ink().key(f"tune runs rm --restore {run.id}{more}")
            console.out(f"moved {run.id} to the trash, {console.size(moved[-1].bytes)}; give it back with: {back_with}")
    if json:
        console.out_json({"trashed": [_data(entry) for entry in moved]})


def _empty(root: Path, yes: bool, json: bool) -> None:
    from nothing_tune.run import trash

    inside = trash.trashed(root)
    total = sum(entry.bytes for entry in inside)
    if not json:
        now = time.time()
        cells = [(t.run, console.age(now - t.removed), console.size(t.bytes)) for t in inside]
        console.out(
            *(console.table(["id", "removed", "size"], cells, right=(1, 2)) if cells else ["the trash is empty"])
        )
        sys.stdout.flush()
    if inside and not yes:
        if json or not (console.is_terminal() and sys.stdin.isatty()):
            raise UsageError(
                f"the trash of {root} is not emptied without being asked: {len(inside)} would go for good",
                hint="add --yes",
            )
        question = f"delete {len(inside)}, {console.size(total)}, for good? [y/N] "
        if not console.ask(question):
            console.out("nothing was deleted")
            return
    gone = trash.empty(root, inside)
    if json:
        console.out_json({"deleted": [_data(entry) for entry in gone]})
    elif gone:
        console.out(f"deleted {len(gone)}, {console.size(total)}")


def _data(entry: Any) -> dict[str, Any]:
    return {"run": entry.run, "removed": entry.removed, "path": str(entry.path), "bytes": entry.bytes}
