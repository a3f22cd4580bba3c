"""Starts and stops the engine on a run, and tells who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.errors import Busy
from nothing_tune.launchers import local


def start(run: Run) -> subprocess.Popen[bytes]:
    """Starts the engine on `run`, detached from this terminal. `Busy` when a process holds the run already."""
    held = holder(run)
    if held:
        raise Busy(
            f"run {run.id} is held by process {held.get('pid', '?')} on {held.get('host', '?')}",
            hint=f"tune watch {run.id} shows it, tune stop {run.id} ends it",
        )
    (run.path / "result.json").unlink(missing_ok=True)
    return local.start(run.path)


def interrupt(run: Run, sig: int = signal.SIGINT) -> bool:
    """Sends a signal to the engine that holds `run` on this machine; False where none does."""
    held = holder(run)
    if not held or not held.get("pid"):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(held["pid"]), sig)
        return True
    return False


def stop(run: Run, grace_s: float = 60.0) -> str:
    """Asks the engine to save and stop, and waits up to `grace_s` seconds; returns the state then."""
    if interrupt(run):
        end = time.monotonic() + grace_s
        while holder(run) and time.monotonic() < end:
            time.sleep(0.1)
    return run.state()


def holder(run: Run) -> dict[str, Any] | None:
    """Who holds `run` on this machine: `{pid, host, since}`; None when nobody does."""
    try:
        with open(run.path / "run.lock", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError):
                    content = json.loads(handle.read() or "{}")
                    return content if isinstance(content, dict) else {}
                return {}
            return None
    except OSError:
        return None


def alive(run: Run) -> bool:
    """True while an engine on this machine works on `run`."""
    return holder(run) is not None
