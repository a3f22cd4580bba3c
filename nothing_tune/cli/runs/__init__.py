"""`tune runs`: the runs of a folder; its commands are one file each beside this one. Reads only what is shown."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.runs import fork, pin, rm, show, sync, verify

EXAMPLES = (
    ("tune runs", "the 20 newest"),
    ("tune runs --all --json", "all, for a program"),
    ("tune runs show latest", "everything about the newest"),
    ("tune runs verify --all", "whether all that is kept is what was written"),
)
EXITS = (0, 2, 74)


def command(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Show the N newest.")] = 20,
    all_: Annotated[bool, typer.Option("--all", help="Show all of them.")] = False,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Shows the newest runs as a table; reads the status of those only."""
    if context.invoked_subcommand:
        return
    from nothing_tune.artifacts import Run, run_ids, runs_root
    from nothing_tune.cli.runs.row import row

    root = runs_root(runs_dir)
    ids = run_ids(root)
    shown = ids[::-1] if all_ else ids[: -limit - 1 : -1]
    rows = [row(Run(root / i)) for i in shown]
    if json:
        console.out_json(rows)
        return
    if not rows:
        console.out(f"there is no run in {root}; tune train quickstart makes one")
        return
    paint = console.ink()
    now = time.time()
    states = {"done": paint.ok, "running": paint.key, "failed": paint.error, "lost": paint.error}

    def tint(column: int, cell: str, padded: str) -> str:
        if column == 3:
            return states.get(cell, paint.warn)(padded)
        return paint.dim(padded) if column == 6 else padded

    cells = [
        (
            r["id"],
            str(r["recipe"] or "-"),
            str(r["gpu"] or "-"),
            r["state"],
            "-" if r["step"] is None else f"{r['step']}/{r['total_steps'] or '?'}",
            console.number(r["eval_loss"]),
            "-" if r["created"] is None else console.age(now - r["created"]),
        )
        for r in rows
    ]
    heads = ["id", "recipe", "gpu", "state", "step", "eval loss", "age"]
    console.out(*console.table(heads, cells, right=(4, 5, 6), paint=tint))
    if len(ids) > len(rows):
        console.out(paint.dim(f"{len(ids) - len(rows)} older; --all shows them"))


SUBCOMMANDS = {
    "show": (show.show, show.HELP, show.EXAMPLES, show.EXITS),
    "verify": (verify.verify, verify.HELP, verify.EXAMPLES, verify.EXITS),
    "fork": (fork.fork, fork.HELP, fork.EXAMPLES, fork.EXITS),
    "sync": (sync.sync, sync.ABOUT, sync.EXAMPLES, sync.EXITS),
    "pin": (pin.pin, pin.HELP, pin.EXAMPLES, pin.EXITS),
    "rm": (rm.rm, rm.HELP, rm.EXAMPLES, rm.EXITS),
}
"""Command -> the function, its help, its examples and its exit codes."""
