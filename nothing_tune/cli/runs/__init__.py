"""`tune runs` and `tune runs show`: the runs of a folder, and all about one. Reads only what is shown."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options

EXAMPLES = (
    ("tune runs", "the 20 newest"),
    ("tune runs --all --json", "all, for a program"),
    ("tune runs show latest", "everything about the newest"),
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


def row(run: Any) -> dict[str, Any]:
    """What the table says about a run: from its status.json alone; a damaged file makes the state `damaged`."""
    found, error = console.outcome(run.status)
    status: dict[str, Any] = found or {}
    return {
        "id": run.id,
        "recipe": status.get("recipe"),
        "gpu": status.get("gpu"),
        "state": "damaged" if error else run.state(),
        "step": status.get("step"),
        "total_steps": status.get("total_steps"),
        "eval_loss": status.get("eval_loss"),
        "created": status.get("created") or status.get("started") or _made(run.path),
    }


def show(run_id: options.RunId, runs_dir: options.RunsDir = None, json: options.Json = False) -> None:
    """Shows everything about one run."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli.live import called, from_json
    from nothing_tune.cli.view import View, closing, header, plan_facts
    from nothing_tune.recipe.library import shown

    run = find_run(run_id, runs_root(runs_dir))
    plan, status, result, state = run.plan(), run.status(), run.result() or {}, run.state()
    files = _files(run.path)
    kept = sorted((p.name for p in run.checkpoints.glob("checkpoint-*")), key=lambda n: int(n.rsplit("-", 1)[-1]))
    if json:
        data = {**row(run), "path": str(run.path), "attempts": status.get("attempt"), "checkpoints": kept}
        console.out_json({**data, "files": files, "plan": plan, "status": status, "result": result or None})
        return
    view = View()
    attempts: dict[int, tuple[int, int]] = {}
    warnings: list[tuple[str, str, str]] = []
    for event, _ in run.events():
        view.apply(event)
        warnings += view.take_notes()
        first, _last = attempts.get(view.attempt, (view.step, 0))
        attempts[view.attempt] = (first, view.step)
    paint = console.ink()
    console.out(
        f"{paint.bold(str(plan.get('name')))}  {paint.dim(run.id)}", *header(_made_of(run, plan_facts(plan)), paint)
    )
    if len(attempts) > 1:
        parts = [f"{n}: steps {a} to {b}" for n, (a, b) in sorted(attempts.items())]
        console.out("", f"{paint.bold('attempts')}", *(f"  {p}" for p in parts))
    if warnings:
        console.out("", paint.bold("warnings"), *(f"  {console.printable(what)}" for _, what, _ in warnings))
    console.out("", paint.bold("files") + paint.dim(f"  {shown(run.path)}"))
    left = max((len(name) for name in files), default=0)
    console.out(*(f"  {name.ljust(left)}  {paint.dim(console.size(size).rjust(9))}" for name, size in files.items()))
    if kept:
        console.out(f"  {paint.dim('kept: ' + ', '.join(kept))}")
    console.out("", *closing(called(run), shown(run.path), state, result, view, paint, more=False))
    problems = (result.get("error") or {}).get("problems") or []
    if problems and state == "failed":
        console.out("")
        for problem in problems:
            console.out(*console.problem_lines(from_json(problem), paint))


def _made_of(run: Any, facts: dict[str, str]) -> dict[str, str]:
    """The facts of a plan, and the layers that it was merged from."""
    from nothing_tune.artifacts import read_json

    layers = (read_json(run.path / "lock.json") or {}).get("layers") or []
    shown_facts = {name: console.near(text) for name, text in facts.items()}
    return {**shown_facts, "layers": " · ".join(console.near(name) for name in layers)} if layers else shown_facts


def _files(path: Path) -> dict[str, int]:
    """Name -> bytes of what lies in a run directory; folders end with `/` and count all below them."""
    out = {}
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: (e.is_dir(), e.name)):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below = (p for p in Path(entry.path).rglob("*") if p.is_file())
                out[f"{entry.name}/"] = sum(p.stat().st_size for p in below)
            else:
                out[entry.name] = entry.stat().st_size
    return out


def _made(path: Path) -> float | None:
    """When a run directory was made, from its recipe.yaml; None when there is none."""
    try:
        return os.stat(path / "recipe.yaml").st_mtime
    except OSError:
        return None


SUBCOMMANDS = {
    "show": (
        show,
        "Tells everything about one run: its layers, settings, attempts, losses and files, and what to do next.",
        (("tune runs show latest", "the newest run"), ("tune runs show latest --json", "for a program")),
        (0, 2),
    )
}
