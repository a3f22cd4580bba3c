"""`tune runs show`: everything about one run."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, read_json
from nothing_tune.cli import console, notices, options
from nothing_tune.cli.console import Ink
from nothing_tune.outputs import evaluation, lines, record

HELP = "Tells everything about one run: settings, attempts, what went wrong and what was done, losses, files, what to do next."
EXAMPLES = (("tune runs show latest", "the newest run"), ("tune runs show latest --json", "for a program"))
EXITS = (0, 2)
ONE_LINE = 10_000
"""Columns where the output is no terminal: an entry is a line there, whatever it says."""


def show(run_id: options.RunId, runs_dir: options.RunsDir = None, json: options.Json = False) -> None:
    """Shows everything about one run."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.cli.live import called, from_json, has_checkpoint
    from nothing_tune.cli.runs.row import attempt_rows, checkpoint_rows, fault_rows, row
    from nothing_tune.cli.view import REFUSED, View, closing, header, plan_facts
    from nothing_tune.recipe.library import shown

    run = find_run(run_id, runs_root(runs_dir))
    plan, status, result, state = run.plan(), run.status(), run.result() or {}, run.state()
    lock = read_json(run.path / "lock.json") or {}
    files, attempts, said, kept = _files(run.path), attempt_rows(run), fault_rows(run), checkpoint_rows(run)
    if json:
        told: dict[str, list[dict[str, Any]]] = {"faults": [], "warnings": [], "notes": []}
        for entry in said:
            told[_heading(entry["kind"])].append(entry)
        data = {**row(run), "path": str(run.path), "parent": lock.get("parent"), "attempts": attempts, **told}
        data |= {
            "evaluations": [e.to_json() for e in evaluation.all_of(run)],
            "exports": record.exports(run.path / "exports"),
        }
        console.out_json(
            {**data, "checkpoints": kept, "files": files, "plan": plan, "status": status, "result": result or None}
        )
        return
    view = View()
    for event, _ in run.events():
        view.apply(event)
    view.glance(status)
    view.step = view.step or status.get("step") or 0  # a fork that waits has a step before its first event
    if state != "done":
        view.step = max(view.step, run.saved_step())
    paint = console.ink()
    facts = {name: console.near(text) for name, text in plan_facts(plan, view.rows).items()}
    facts["layers"] = " · ".join(console.near(name) for name in lock.get("layers") or [])
    facts["planned"] = _planned(read_json(run.path / "forecast.json") or {})
    facts["parent"] = _parent(lock.get("parent") or {})
    console.out(f"{paint.bold(str(plan.get('name')))}  {paint.dim(run.id)}", *header(facts, paint))
    if len(attempts) > 1 or any(a["acts"] for a in attempts):
        console.out("", paint.bold("attempts"), *(f"  {line}" for line in _attempts(attempts)))
    for heading in ("faults", "warnings", "notes"):
        entries = [e for e in said if _heading(e["kind"]) == heading]
        if entries:
            console.out(
                "", paint.bold(heading), *(f"  {line}" for e in entries for line in _entry(e, len(attempts) > 1, paint))
            )
    if kept:
        console.out("", paint.bold("checkpoints"), *(f"  {line}" for line in _checkpoints(kept)))
    for heading, found in (("evaluations", _evaluations(run)), ("exports", _exports(run))):
        if found:
            console.out("", paint.bold(heading), *(f"  {line}" for line in found))
    console.out("", paint.bold("files") + paint.dim(f"  {shown(run.path)}"))
    left = max((len(name) for name in files), default=0)
    console.out(*(f"  {name.ljust(left)}  {paint.dim(console.size(size).rjust(9))}" for name, size in files.items()))
    saved = has_checkpoint(run)
    console.out("", *closing(called(run), shown(run.path), state, result, view, paint, more=False, saved=saved))
    problems = (result.get("error") or {}).get("problems") or []
    if problems and (state == "failed" or result.get("exit_code") == REFUSED):
        console.out("")
        for problem in problems:
            console.out(*console.problem_lines(notices.near(from_json(problem)), paint))


def _heading(kind: str) -> str:
    return {"warning": "warnings", "note": "notes"}.get(kind, "faults")


def _parent(parent: dict[str, Any]) -> str:
    """`ID at step 20, goes on with other settings: training.learning_rate 0.0002 -> 0.0001`; empty for a run that is no fork."""
    from nothing_tune.plan.drift import shown

    if not parent:
        return ""
    how = "goes on from there" if parent.get("mode") == "continue" else "a new count with its weights"
    changed = parent.get("changed") or {}
    what = ", ".join(f"{key} {shown(pair[0])} -> {shown(pair[1])}" for key, pair in changed.items() if len(pair) == 2)
    return f"{parent.get('run')} at step {parent.get('step')}, {how}{f': {what}' if what else ''}"


def _planned(forecast: dict[str, Any]) -> str:
    """`120 steps, 5.6 GiB, 4.1 h (2.9 h to 6.5 h)`: what was told before the start; empty where nothing was."""
    from nothing_tune.cli.plan.page import hours
    from nothing_tune.plan.memory.notes import gib

    maths, memory = (forecast.get(key) or {} for key in ("maths", "memory"))
    parts = []
    if maths:
        parts.append(console.plural(int(maths["total"]), "step"))
    if memory:
        parts.append(f"{gib(memory['longest']['peak'])} of memory at most")
    if forecast.get("hours"):
        expected, low, high = map(hours, forecast["hours"])
        parts.append(f"{expected} ({low} to {high})")
    return ", ".join(parts)


def _attempts(rows: list[dict[str, Any]]) -> list[str]:
    cells = []
    for r in rows:
        took = r["ended"] - r["started"] if r["ended"] and r["started"] else None
        began = f"{datetime.fromtimestamp(r['started'], UTC):%Y-%m-%d %H:%M}" if r["started"] else "-"
        code = f" ({r['exit_code']})" if r["exit_code"] else ""
        how = "ended without a word" if r["state"] == "abandoned" else f"{r['state']}{code}"
        how += f": {console.printable(r['error'])}" if r["error"] else ""
        steps = f"{r['from_step']} to {r['step']}"
        cells.append((str(r["attempt"]), str(r["host"] or "-"), began, console.clock(took), steps, how))
        cells += [("", "", "", "", "", console.printable(act)) for act in r["acts"]]
    return console.table(["nr", "host", "started (UTC)", "took", "steps", "ended"], cells, right=(0, 3))


def _entry(entry: dict[str, Any], several: bool, paint: Ink) -> list[str]:
    """`attempt 2, step 40: what; what was done`, wrapped."""
    parts = [f"attempt {entry['attempt']}"] if several and entry["attempt"] else []
    parts += [f"step {entry['step']}"] if entry["step"] and entry["kind"] not in ("warning", "note") else []
    head = f"{', '.join(parts)}: " if parts else ""
    columns = (console.width() or ONE_LINE) - 2
    first, *rest = notices.lines("", f"{head}{entry['what']}", entry["hint"], columns, paint)
    return [f"{paint.dim(head)}{first.removeprefix(head)}", *rest]


def _checkpoints(rows: list[dict[str, Any]]) -> list[str]:
    now = time.time()
    cells = []
    for r in rows:
        marks = [word for word in ("best", "pinned") if r[word]] + ([] if r["complete"] else ["not complete"])
        age = console.age(now - r["written"]) if r["written"] else "-"
        cells.append((str(r["step"]), age, console.size(r["bytes"]), ", ".join(marks)))
    return console.table(["step", "age", "size", ""], cells, right=(0, 1, 2))


def _evaluations(run: Run) -> list[str]:
    """One line for each: name, step, rows and the loss beside the base's."""
    cells = []
    for found in evaluation.all_of(run):
        loss, base = (m.get("loss") if m else None for m in (found.metrics, found.base))
        beside = f"base {evaluation.shown('loss', base.value)}" if base else ""
        verdict = evaluation.verdict("loss", (found.difference or {}).get("loss"))
        cells.append(
            (
                found.name,
                str(found.step),
                f"{found.rows.get('count', 0):,}",
                evaluation.shown("loss", loss.value if loss else None),
                f"{beside}, {verdict}" if verdict else beside,
            )
        )
    return console.table(["name", "step", "rows", "loss", ""], cells, right=(1, 2, 3)) if cells else []


def _exports(run: Run) -> list[str]:
    """One line for each output: what, of which step, its size, and whether it was proved."""
    cells = []
    found = record.exports(run.path / "exports")
    for one in found:
        told = lines.proved(one["proof"])
        cells.append((one["output"], str(one["step"]), console.size(one["bytes"]), told, f"exports/{one['folder']}/"))
    rows = console.table(["output", "step", "size", "", "folder"], cells, right=(1, 2)) if cells else []
    ended = read_json(run.path / "exports" / "result.json") or {}
    last = max((one["made"] or 0.0 for one in found), default=0.0)
    if ended.get("exit_code") and float(ended.get("time") or 0.0) > last:
        rows.append(
            f"the export after the training failed (exit code {ended['exit_code']}): tune export {run.id} tries again"
        )
    return rows


def _files(path: Path) -> dict[str, int]:
    """Name -> bytes of what lies in a run directory; folders end with `/` and count all below them."""
    from nothing_tune.cli.runs.row import below

    out = {}
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: (e.is_dir(), e.name)):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                out[f"{entry.name}/"] = below(Path(entry.path))
            else:
                out[entry.name] = entry.stat().st_size
    return out
