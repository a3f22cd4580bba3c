"""The job behind `tune data generate`: one request as a JSON line, then events as JSON lines until it ends.

    in:  {"generation": Generation.to_json(), "limit": null, "retry_failed": false, "dry_run": false, "command": "tune data generate marco"}
    out: {"type": "note", "what", "hint"} ...  {"type": "phase", "phase": "reading" | "filtering" | "loading" | "asking" | "writing"} ...
         {"type": "progress", "asked", "total", "taken", "rejected", "failed", "tokens_in", "tokens_out", "cost_usd", "seconds"} ...
         {"type": "report", "report": {...}}    or {"type": "estimate", ...} of a dry run
    or   {"type": "error", "what", "hint", "exit_code", "problems": [...]}

SIGINT, SIGTERM, or the end of its input stop it: no more questions, the answers that are on their way are waited for, and the exit
code is 130. The output is written when everything that was to be asked was asked; the ledger is right at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from nothing_tune.artifacts import write_text
from nothing_tune.artifacts.redact import redact
from nothing_tune.engine.generate import compose, family
from nothing_tune.engine.generate.ledger import Ledger, folder
from nothing_tune.engine.generate.prompts import read
from nothing_tune.engine.generate.schedule import Schedule
from nothing_tune.engine.generate.work import Work, cost, estimate, spent
from nothing_tune.engine.job import claimed_stdout
from nothing_tune.engine.worker import ENVIRONMENT, with_environment
from nothing_tune.errors import Place, Problem, RunError, Stopped, StorageError, UsageError

TICK_S = 1.0
"""Seconds between two progress events."""
Send = Callable[..., None]


def main(lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Does what the first line of `lines` (stdin) asks for, and returns the exit code."""
    lines, out = lines or sys.stdin, out or claimed_stdout()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    stop, lock = threading.Event(), threading.Lock()

    def send(**fields: Any) -> None:
        try:
            with lock:
                print(json.dumps(fields, ensure_ascii=False), file=out, flush=True)
        except (BrokenPipeError, ValueError):  # nobody reads any more
            stop.set()

    origins: dict[str, Any] = {}
    output = ""
    try:
        request = json.loads(lines.readline())
        origins, output = request["generation"]["origins"], request["generation"]["settings"]["output"]
        with _signals(stop):
            threading.Thread(target=_watch, args=(lines, stop), name="input", daemon=True).start()
            run(request, send, stop)
    except BaseException as error:  # whatever it is, the other end of the pipe must be told
        traceback.print_exc()
        from nothing_tune.engine.failures import explain

        known = explain(error)
        problems = [_placed(p, origins) for p in known.problems]
        if known is not error and isinstance(known, RunError) and (log := _log(error, output)):
            problems = [replace(p, hint=f"{log} has the whole story") for p in problems]
        first = problems[0]
        send(
            type="error",
            what=first.what,
            hint=first.hint,
            exit_code=known.exit_code,
            problems=[p.to_json() for p in problems],
        )
        return known.exit_code
    return 0


def run(request: dict[str, Any], send: Send, stop: threading.Event) -> None:
    """Reads the prompts, asks what was not asked, writes the output and sends the report.

    Raises:
        Stopped: `stop` was set before everything was asked.
        TuneError: Whatever makes it impossible; the ledger is right all the same.
    """
    generation = request["generation"]
    resolved = with_environment({"model": generation["model"], "data": generation["settings"]})
    model, settings = resolved["model"], resolved["data"]
    dry, limit = bool(request.get("dry_run")), request.get("limit")
    check_family(model, settings, send)
    output = Path(settings["output"]).expanduser()
    compose.check_output(output)
    send(type="phase", phase="reading")
    prompts = read(settings)
    ledger = Ledger(output)
    if dry:
        ledger.read()
        work = Work(prompts, settings, ledger)
        _notes(work, send)
        send(type="estimate", **_estimate(work, request, output))
        return
    with ledger:
        if ledger.answers:
            send(type="phase", phase="filtering", kept=len(ledger.answers))
        work = Work(prompts, settings, ledger)
        _notes(work, send)
        schedule = work.schedule(limit, bool(request.get("retry_failed")))
        if not stop.is_set():
            _ask(work, schedule, send, stop)
        ledger.sync()
        if stop.is_set():
            raise Stopped(
                f"stopped: {len(work.verdicts):,} answers are kept in {ledger.path}",
                hint=f"{request.get('command') or 'tune data generate'} goes on and asks none of them again",
            )
        send(type="phase", phase="writing")
        report = compose.report(work, schedule, output, limit)
        compose.write(work, output, report, generation["name"])
    send(type="report", report=report)


def check_family(model: dict[str, Any], settings: dict[str, Any], send: Send) -> None:
    """`UsageError` when generator and trained model are of one family and the recipe does not allow it; a note when unknown."""
    alike, why = family.same(model, settings["generator"])
    names = f"{settings['generator']['model']} would answer for {model.get('name_or_path') or 'a model without a name'}"
    if settings["same_family"]:
        return
    if alike:
        raise UsageError(
            Problem(
                f"circular training: {names}, and {why}",
                key="generate.generator.model",
                hint="take a generator of another family, whose habits the trained model does not share; "
                "or write generate.same_family: true",
            )
        )
    if alike is None:
        send(
            type="note",
            what=f"{names}: {why}, so nobody can tell whether the training is circular",
            hint="look at both model cards; generate.same_family: true silences this",
        )


def _ask(work: Work, schedule: Schedule, send: Send, stop: threading.Event) -> None:
    total = _total(schedule)
    if not total:
        return
    settings, began = work.settings, time.monotonic()

    def progress() -> None:
        tokens = spent(work.ledger)
        now = (tokens[0] - work.spent_before[0], tokens[1] - work.spent_before[1])
        done = schedule.asked - schedule.in_flight
        send(
            type="progress",
            asked=done,
            total=done + schedule.in_flight + _total(schedule),
            taken=sum(work.judge.taken.values()),
            rejected=sum(sum(c.values()) for c in work.judge.rejected.values()),
            failed=len(work.ledger.faults),
            tokens_in=now[0],
            tokens_out=now[1],
            cost_usd=cost(now, settings["generator"]),
            seconds=round(time.monotonic() - began, 1),
        )

    if settings["generator"]["kind"] == "openai":
        send(type="phase", phase="asking")
        from nothing_tune.engine.generate.endpoint import ask_all

        with _ticking(progress):
            asyncio.run(_asking(ask_all, work, schedule, stop))
    else:
        send(type="phase", phase="loading")
        from nothing_tune.engine.generate.local import answer_all, load

        loaded = load(settings)
        send(type="phase", phase="asking")
        began = time.monotonic()
        with _ticking(progress):
            answer_all(schedule, settings, work.give, stop.is_set, loaded)


async def _asking(ask_all: Any, work: Work, schedule: Schedule, stop: threading.Event) -> None:
    stopping = asyncio.Event()

    async def mirror() -> None:
        while not stop.is_set():
            await asyncio.sleep(0.1)
        stopping.set()

    watch = asyncio.create_task(mirror())
    try:
        await ask_all(schedule, work.settings, work.give, stopping)
    finally:
        watch.cancel()


def _total(schedule: Schedule) -> int:
    """Questions that are still to be asked, as far as one can know."""
    left = sum(schedule.left().values())
    return left if schedule.limit is None else min(left, max(schedule.limit - schedule.asked, 0))


def _estimate(work: Work, request: dict[str, Any], output: Path) -> dict[str, Any]:
    schedule = work.schedule(request.get("limit"), bool(request.get("retry_failed")))
    groups = estimate(work, schedule)
    left = schedule.left()
    share = _total(schedule) / max(sum(left.values()), 1)
    tokens = (
        round(sum(g["tokens_in"] for g in groups.values()) * share),
        round(sum(g["tokens_out"] for g in groups.values()) * share),
    )
    for name, group in groups.items():
        target = work.groups.get(name, work.groups[""])["target"]
        group |= {
            "prompts": sum(p.group == name for p in work.prompts),
            "authentic": work.authentic[name],
            "taken": work.judge.taken[name],
            "target": target,
            "lacking": 0 if target is None else max(int(target) - work.have(name) - group["asked"], 0),
        }
    return {
        "output": str(output),
        "generator": work.settings["generator"]["model"],
        "group_by": work.settings["group_by"],
        "prompts": len(work.prompts),
        "asked": _total(schedule),
        "groups": groups,
        "tokens_in": tokens[0],
        "tokens_out": tokens[1],
        "measured": all(g["measured"] for g in groups.values() if g["asked"]),
        "cost_usd": cost(tokens, work.settings["generator"]),
    }


def _notes(work: Work, send: Send) -> None:
    named = [g for g in work.groups if g]
    strange = [g for g in work.group_names if g not in named]
    by = work.settings["group_by"]
    if named and strange:
        count = sum(p.group in strange for p in work.prompts)
        send(
            type="note",
            what=f"{count:,} prompts have a {by} that generate.groups does not name: {', '.join(strange[:8])}",
            hint="they are all answered, with the settings of generate itself; name the group, or mend the rows",
        )
    empty = [g for g in named if g not in work.group_names]
    if empty:
        send(type="note", what=f"no prompt has the {by} {', '.join(empty)}", hint="look at generate.groups")
    if work.repeated:
        send(
            type="note",
            what=f"{work.repeated:,} prompts are there again word for word and are asked once",
            hint="",
        )


@contextlib.contextmanager
def _ticking(progress: Callable[[], None]) -> Iterator[None]:
    """Calls `progress` now, every `TICK_S` seconds, and at the end."""
    over = threading.Event()

    def tick() -> None:
        while True:
            with contextlib.suppress(RuntimeError):  # an answer came while the answers were counted
                progress()
            if over.wait(TICK_S):
                return

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        progress()


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop`; a second SIGINT ends the process as it usually does."""
    before: dict[int, Any] = {}

    def on(number: int, _: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, on)
    except ValueError:  # not the main thread: a test
        before = {}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _watch(lines: TextIO, stop: threading.Event) -> None:
    """Waits for the end of the input: who asked is gone."""
    with contextlib.suppress(OSError, ValueError):
        for _ in lines:
            pass
    stop.set()


def _log(error: BaseException, output: str) -> Path | None:
    """Writes the traceback of an error that nobody foresaw beside the answers; None where that cannot be done."""
    path = folder(Path(output).expanduser()) / "error.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, redact("".join(traceback.format_exception(error))))
    except (OSError, StorageError):
        return None
    return path


def _placed(problem: Problem, origins: dict[str, Any]) -> Problem:
    """`problem` with the place where its key was set."""
    found = origins.get(problem.key)
    if problem.place is not None or not found:
        return problem
    place = Place(*found[0]) if found[0] else None
    return replace(problem, place=place, layer=found[1])
