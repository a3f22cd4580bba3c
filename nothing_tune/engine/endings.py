"""What the end of a run's workers means, as the supervisor writes it to result.json. Light: it never imports torch."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, attempts, checkpoint
from nothing_tune.engine.failures import LOOP, what_of
from nothing_tune.errors import Diverged, OutOfMemory, Preempted, Problem, Stopped, StorageError, TuneError

CODES = (65, 70, 71, 74)
"""Exit codes of a worker that mean what they say even where its result could not be written."""
CGROUPS = Path("/sys/fs/cgroup")


def of(
    run: Run,
    attempt: int,
    codes: Sequence[int | None],
    killed: set[int],
    left: dict[int, dict[str, Any]],
    signals: Sequence[int],
) -> dict[str, Any]:
    """The result of an attempt whose ranks ended with `codes`: rank 0's own, else that of the rank that failed first.

    Args:
        codes: Exit code of each rank, negative for a signal.
        killed: Ranks that the supervisor killed because another one had failed.
        left: What ranks left in their files, by rank.
        signals: Signals that the supervisor was sent.
    """
    own = attempts.salvage(run.path / "result.json")[0]
    if own is not None and own.get("attempt") == attempt:
        return own
    short = [r for r in left.items() if r[1].get("oom")]
    silent = [n for n, code in enumerate(codes) if code and n not in left and n not in killed]
    if short:
        number, result = min(short, key=lambda r: _ended(r[1]))
    elif left and not any((codes[n] or 0) < 0 for n in silent):
        number, result = min(left.items(), key=lambda r: _ended(r[1]))
    else:
        number = min(silent, key=lambda n: (codes[n] or 0) > 0, default=0)
        result = died(codes[number] or 0, attempt, signals, run)
    if len(codes) == 1:
        return result
    return _reworded(result, f"rank {number}: {what_of(result)}") if result["state"] == "failed" else result


def died(code: int, attempt: int, signals: Sequence[int], run: Run) -> dict[str, Any]:
    """The result of a worker that ended with `code` (negative: minus the signal) and left none."""
    if len(signals) == 1 and code in (-signals[0], 1, 75, 130):
        return stopped(signals[0], attempt, run)  # the signal came before the worker could serve it
    state, exit_code = "failed", code if code in CODES else 5
    if len(signals) > 1:
        what = "the worker was killed on a second signal, before it could save"
        if signals[0] == signal.SIGINT:
            state, exit_code = "stopped", Stopped.exit_code
    elif code < 0:
        what = f"the worker was killed by signal {-code} ({_signal_name(-code)})"
    elif code == StorageError.exit_code:
        what = "the disk refused to write how the run ended"
    else:
        what = f"the worker ended with code {code} and left no result"
    hint = f"{goes_on(run)}; {run.path / 'engine.log'} has the end of the story"
    if code == -signal.SIGKILL and len(signals) < 2:
        hint = f"this is often the system running out of memory; {hint}"
    if code == StorageError.exit_code:
        hint = f"free some space; {hint}"
    return {**_result(state, exit_code, Problem(what, hint=hint), attempt, run), "signal": -code if code < 0 else None}


def failed(error: TuneError, attempt: int, run: Run) -> dict[str, Any]:
    """The result of a run that `error` ends."""
    return _result("failed", error.exit_code, error.problems[0], attempt, run)


def stopped(number: int, attempt: int, run: Run) -> dict[str, Any]:
    """The result of a run that the signal `number` ended where nothing new could be saved."""
    hint = goes_on(run)
    if number == signal.SIGINT:
        problem = Problem("stopped by the user, before it could save", hint=hint)
        return _result("stopped", Stopped.exit_code, problem, attempt, run)
    problem = Problem(f"ended from outside ({_signal_name(number)}), before it could save", hint=hint)
    return _result("preempted", Preempted.exit_code, problem, attempt, run)


def host_memory(result: dict[str, Any], run: Run) -> dict[str, Any]:
    """`result` of a worker that was killed while the system ran out of memory."""
    hint = (
        "this is the memory of the machine, not of the GPU: give it more, close other programs, or lower "
        f"training.dataloader_num_workers; {goes_on(run)}"
    )
    what = "the system ran out of memory and killed the worker"
    return {**_reworded(result, what, hint), "exit_code": OutOfMemory.exit_code}


def exhausted(result: dict[str, Any], tried: Sequence[str]) -> dict[str, Any]:
    """`result` of a run that is out of memory with nothing left to try."""
    cures = "lower training.max_length, choose a smaller model or a GPU with more memory, or load the base in 4 bit (quantization)"
    hint = f"tried: {'; '.join(tried)}; what still helps: {cures}" if tried else cures
    if result.get("oom") == "evaluation":
        what = f"{what_of(result)}, in the evaluation with one row at once"
    else:
        what = f"{what_of(result)}, with one row at once and activation checkpointing"
    return _reworded(result, what, hint)


def looping(result: dict[str, Any]) -> dict[str, Any]:
    """`result` of the third attempt in a row that ended with the same error at the same step."""
    what = what_of(result)
    times = {3: "three"}.get(LOOP, str(LOOP))
    hint = result["error"]["problems"][0].get("hint") or ""
    hint = f"trying again will not help before the cause is mended{f'; {hint}' if hint else ''}"
    again = _reworded(result, f"the same error {times} times at step {result.get('step') or 0}: {what}", hint)
    return {**again, "exit_code": Diverged.exit_code, "cause": what}


def port_taken(result: dict[str, Any]) -> bool:
    """Whether a rank failed because another program listens on the port that was free when it was chosen."""
    text = f"{what_of(result)} {(result.get('error') or {}).get('traceback', '')}".lower()
    return "eaddrinuse" in text or "address already in use" in text


def goes_on(run: Run) -> str:
    """Where the run would go on, as the end of a hint."""
    step = committed(run)
    return (
        f"tune resume {run.id} continues at step {step}"
        if step
        else f"tune resume {run.id} starts again: there is no checkpoint yet"
    )


def committed(run: Run) -> int:
    """Step of the newest checkpoint that has its COMMIT.json; 0 when there is none."""
    steps = checkpoint.steps(run.checkpoints)
    return max((s for s in steps if (run.checkpoints / f"checkpoint-{s}" / checkpoint.COMMIT).is_file()), default=0)


def oom_kills() -> int | None:
    """How often the kernel has killed a process of this control group for want of memory; None where it does not tell."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    places = []
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        own = inner.strip("/")
        if not controllers:
            places += [CGROUPS / own / "memory.events", CGROUPS / "memory.events"]
        elif "memory" in controllers.split(","):
            places += [CGROUPS / "memory" / own / "memory.oom_control", CGROUPS / "memory" / "memory.oom_control"]
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            for row in place.read_text(encoding="ascii").splitlines():
                name, _, count = row.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return None


def mend(events: Path) -> None:
    """Ends a torn last line of `events`, so that the next event has a line of its own."""
    with contextlib.suppress(FileNotFoundError), open(events, "rb+") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size:
            handle.seek(size - 1)
            if handle.read(1) != b"\n":
                handle.write(b"\n")


def _result(state: str, exit_code: int, problem: Problem, attempt: int, run: Run) -> dict[str, Any]:
    status = attempts.salvage(run.path / "status.json")[0] or {}
    return {
        "state": state,
        "exit_code": exit_code,
        "attempt": attempt,
        "error": {"problems": [problem.to_json()]},
        "step": status.get("step"),
        "epoch": status.get("epoch"),
        "metrics": {},
        "adapter": None,
        "digest": None,
        "duration_s": time.time() - float(status.get("started") or time.time()),
        "phases": {},
    }


def _reworded(result: dict[str, Any], what: str, hint: str | None = None) -> dict[str, Any]:
    """`result` with another text for its first problem; the traceback stays."""
    error = result.get("error") or {}
    first, *rest = error.get("problems") or [Problem(what).to_json()]
    first = {**first, "what": what, "hint": first.get("hint", "") if hint is None else hint}
    return {**result, "error": {**error, "problems": [first, *rest]}}


def _ended(result: dict[str, Any]) -> float:
    return float(result.get("ended") or float("inf"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
