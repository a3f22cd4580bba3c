"""What one line of a table says about a run, an attempt, a checkpoint; and what went wrong in a run. Read from its files alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import FINAL_STATES, Run, attempts, checkpoint
from nothing_tune.cli import console
from nothing_tune.cli.view import FAULTS, fault_text, warning_kind


def row(run: Run) -> dict[str, Any]:
    """What the table of runs says: from status.json alone, the eval loss else from the last evaluation; a damaged file makes
    the state `damaged`."""
    found, error = console.outcome(run.status)
    status: dict[str, Any] = found or {}
    state, step = "damaged" if error else run.state(), status.get("step")
    if state == "lost" and run.saved_step() > (step or 0):  # status.json is written every few seconds
        step = run.saved_step()
    evaluated = status.get("eval_loss")
    if evaluated is None and status.get("step"):
        evaluated = ((run.last_event("eval") or {}).get("metrics") or {}).get("eval_loss")
    return {
        "id": run.id,
        "recipe": status.get("recipe"),
        "gpu": status.get("gpu"),
        "state": state,
        "step": step,
        "total_steps": status.get("total_steps"),
        "eval_loss": evaluated,
        "created": status.get("created") or status.get("started") or _made(run.path),
    }


def attempt_rows(run: Run) -> list[dict[str, Any]]:
    """Every attempt, the first one first: from attempts/, and from the events for those that an older version made.

    Keys: `attempt`, `host`, `started` and `ended` (Unix seconds), `from_step`, `step`, `state`, `exit_code`, `error`, `acts`
    (what was done about what went wrong). `state` is `abandoned` for one that ended without a word.
    """
    told = _told_by_events(run)
    files = {int(a["attempt"]): a for a in attempts.all(run)}
    numbers = sorted({*told, *files})
    result = console.outcome(run.result)[0] or {}
    out = []
    for number in numbers:
        known, found = told.get(number, {}), files.get(number, {})
        if found and not found.get("ended") and "damaged" not in found:
            found = {**found, **known.get("end", {})}
            if result.get("attempt") == number:
                found = {**found, **{k: result.get(k) for k in ("ended", "state", "exit_code")}, "error": _error(run)}
        state = str(found.get("state") or known.get("state") or "starting")
        ended = found.get("ended")
        last = number == numbers[-1]
        if found and not ended:
            state = run.state() if last else "abandoned"
            ended = None if last and state not in {*FINAL_STATES, "lost"} else found.get("heartbeat")
        elif not found:
            state = run.state() if last else state if state in FINAL_STATES else "abandoned"
            ended = None if last and state not in {*FINAL_STATES, "lost"} else known.get("ended")
        if "damaged" in found:
            state, ended = "damaged", known.get("ended")
        steps = [s for s in (found.get("step"), known.get("step")) if isinstance(s, int)]
        steps += [run.saved_step()] if last and state == "lost" else []
        out.append(
            {
                "attempt": number,
                "host": found.get("host") or (run.status().get("host") if last else None),
                "started": found.get("created") or known.get("started"),
                "ended": ended,
                "from_step": known.get("from_step", found.get("from_step")) or 0,
                "step": max(steps, default=0),
                "state": state,
                "exit_code": found.get("exit_code"),
                "error": found.get("error") or (_error(run) if last and not found else None),
                "acts": [str(act) for act in found.get("acts") or []],
            }
        )
    return out


def _told_by_events(run: Run) -> dict[int, dict[str, Any]]:
    """Attempt -> what its events say: `started`, `ended` (of the last event), `step`, and where there is such an event
    `from_step`, `state`, and `end`: `ended`, `state` and `exit_code` of its end."""
    out: dict[int, dict[str, Any]] = {}
    for event, _ in run.events():
        number = event.get("attempt")
        if not isinstance(number, int):
            continue
        entry = out.setdefault(number, {"started": event.get("time"), "step": 0})
        entry["ended"] = event.get("time")
        if isinstance(event.get("step"), int):
            entry["step"] = event["step"]
        if event.get("type") == "resume":
            entry["from_step"] = event.get("step") or 0
        elif event.get("type") == "start":
            entry.setdefault("from_step", 0)
        elif event.get("type") == "end" and event.get("state") in FINAL_STATES:
            entry["end"] = {
                "ended": event.get("time"),
                "state": event["state"],
                "exit_code": event.get("exit_code"),
            }
        elif event.get("type") == "state":
            entry["state"] = event.get("state")
    return out


def _error(run: Run) -> str | None:
    problems = ((run.result() or {}).get("error") or {}).get("problems") or [{}]
    what = problems[0].get("what")
    return str(what) if what else None


def fault_rows(run: Run) -> list[dict[str, Any]]:
    """What went wrong in the order in which it happened, what the run warned of, and what it noted.

    Keys: `time`, `attempt`, `step` (None where it has none), `kind` (the event's type; `warning` and `note` are no faults),
    `what`, `hint` (what was done about it).
    """
    out: list[dict[str, Any]] = []
    seen: set[str] = set()
    step: int | None = None
    aside: set[str] = set()
    for event, _ in run.events():
        kind = event.get("type")
        step = event["step"] if isinstance(event.get("step"), int) else step
        if kind in FAULTS:
            what, hint = fault_text(event), ""
            seen.add(what)
            aside.add(f"is set aside as {event.get('to')}")
        elif kind == "warning":
            what, hint = str(event.get("what") or event.get("message") or ""), str(event.get("hint") or "")
            if not what or what in seen or any(text in what for text in aside):
                continue
            seen.add(what)
            kind = warning_kind(what)
        else:
            continue
        out.append(
            {
                "time": event.get("time"), "attempt": event.get("attempt"), "step": event.get("step", step), "kind": kind,
                "what": console.printable(what), "hint": console.printable(hint),
            }
        )  # fmt: skip
    return out


def checkpoint_rows(run: Run) -> list[dict[str, Any]]:
    """Every checkpoint, ascending, without reading its weights.

    Keys: `step`, `name`, `written` (Unix seconds; None while it is not complete), `bytes`, `best`, `pinned`, `complete`.
    """
    from nothing_tune.run.fork import best_step

    best, pinned = console.outcome(lambda: best_step(run))[0], checkpoint.pinned(run.path)
    out = []
    for step in checkpoint.steps(run.checkpoints):
        folder = run.checkpoints / f"checkpoint-{step}"
        written = _mtime(folder / checkpoint.COMMIT)
        out.append(
            {
                "step": step, "name": folder.name, "written": written, "bytes": below(folder), "best": step == best,
                "pinned": step in pinned, "complete": written is not None,
            }
        )  # fmt: skip
    return out


def below(folder: Path) -> int:
    """Bytes of all files below a folder, as their names count."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _mtime(path: Path) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def _made(path: Path) -> float | None:
    """When a run directory was made, from its recipe.yaml; None when there is none."""
    return _mtime(path / "recipe.yaml")
