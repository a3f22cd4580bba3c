"""Starts and stops the engine on a run, and tells who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from typing import Any

from nothing_tune.artifacts import Run, attempts
from nothing_tune.artifacts.runs import is_gone
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.launchers import local


def start(run: Run) -> subprocess.Popen[bytes]:
    """Starts the engine on `run`, detached from this terminal.

    Raises:
        Busy: A process holds the run already, here or on another host.
        StorageError: The run directory cannot be written.
    """
    refuse_held(run)
    result = run.path / "result.json"
    try:
        result.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {result}: {error.strerror}", hint="mend the permissions") from error
    return local.start(run.path)


def refuse_held(run: Run) -> None:
    """`Busy` when a process holds the run, here or on another host."""
    held = holder(run)
    if held is not None:
        raise attempts.busy(run, held)


def interrupt(run: Run, sig: int = signal.SIGINT) -> bool:
    """Sends a signal to the engine that holds `run` on this machine; False where none does.

    Raises:
        UsageError: The engine runs on another host; says where.
    """
    held = holder(run)
    if not held:
        return False
    if held.get("host") and not attempts.is_here(held):
        raise UsageError(
            f"run {run.id} runs on {held['host']}, as process {held.get('pid', 'unknown')}",
            hint=f"stop it there: tune stop {run.id}",
        )
    if not held.get("pid"):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(held["pid"]), sig)
        return True
    return False


def stop(run: Run, grace_s: float = 60.0) -> str:
    """Asks the engine to save and stop, and waits up to `grace_s` seconds; returns the state then.

    Raises:
        UsageError: The engine runs on another host; says where.
    """
    if interrupt(run):
        end = time.monotonic() + grace_s
        while holder(run) and time.monotonic() < end:
            time.sleep(0.1)
    return run.state()


def holder(run: Run) -> dict[str, Any] | None:
    """Who holds `run`: `{pid, host, since}`, empty where that cannot be read; None when nobody does.

    `pid` is the supervisor's, or the worker's where that still saves while its supervisor is gone. Asks the lock first; where
    that is free or there is none, the lease of an engine on another host counts while its heartbeat is fresh.
    """
    path = run.path / "run.lock"
    free = False
    try:
        with open(path, encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                return _still_there(run, attempts.salvage(path)[0] or {})
    except OSError:
        pass  # no lock file, or no locks on this file system
    lease = attempts.leased(run)
    if lease is None or (free and attempts.is_here(lease)):
        return None
    return lease


def _still_there(run: Run, held: dict[str, Any]) -> dict[str, Any]:
    """`held`, with the worker's pid in the place of that of a supervisor that is gone."""
    if attempts.is_here(held) and is_gone(held.get("pid")):
        worker = (attempts.salvage(run.path / "status.json")[0] or {}).get("worker")
        if isinstance(worker, int) and not is_gone(worker):
            return {**held, "pid": worker}
    return held


def alive(run: Run) -> bool:
    """True while an engine works on `run`, on this machine or, as far as its heartbeat tells, on another."""
    return holder(run) is not None
