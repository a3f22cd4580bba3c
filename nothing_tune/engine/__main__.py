"""`python -m nothing_tune.engine RUN_DIR`: the supervisor of a run. Light: it never imports torch.

It holds the run's lock, starts the worker in a process group of its own, forwards the first SIGINT or SIGTERM to it
(the second one kills it), and exits with the code in result.json. When the worker dies without a result, by the
out-of-memory killer for instance, the supervisor writes a truthful one. Running it again continues at the newest
complete checkpoint; a run that is done stays done.

`python -m nothing_tune.engine chat RUN_DIR [--base]` answers messages over JSON lines, see `chat`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from nothing_tune.artifacts import FINAL_STATES, Run, append_event, read_json, write_json
from nothing_tune.errors import Busy, Problem, TuneError, UsageError

USAGE = "usage: python -m nothing_tune.engine RUN_DIR\n       python -m nothing_tune.engine chat RUN_DIR [--base]"


def main(arguments: list[str]) -> int:
    """Runs the job that `arguments` name; returns the exit code."""
    if arguments and arguments[0] == "chat" and len(arguments) in (2, 3):
        from nothing_tune.engine import chat

        return chat.main(Path(arguments[1]), base="--base" in arguments[2:])
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return supervise(Run(Path(arguments[0]).absolute()))
    except TuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def supervise(run: Run) -> int:
    """Trains `run` in a worker process and returns its exit code. `Busy` when another process holds the run."""
    run.plan()  # a UsageError for a folder that is no run, before anything is written
    lock = hold(run)
    done = run.result()
    if done and done.get("state") == "done":
        return int(done.get("exit_code", 0))
    (run.path / "result.json").unlink(missing_ok=True)
    status = run.status()
    attempt = int(status.get("attempt") or 0) + 1
    now = time.time()
    status = {
        **status,
        "state": "starting",
        "attempt": attempt,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "created": status.get("created") or now,
        "started": now,
        "heartbeat": now,
    }
    write_json(run.path / "status.json", status)

    signals: list[int] = []
    worker: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: FrameType | None) -> None:
        signals.append(number)
        if worker is None or worker.poll() is not None:
            return
        if len(signals) == 1:
            worker.send_signal(number)
        else:
            os.killpg(worker.pid, signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    # The worker inherits the lock: should the supervisor die, the run stays held for as long as the worker lives.
    worker = subprocess.Popen(
        [sys.executable, "-m", "nothing_tune.engine.worker", str(run.path)],
        process_group=0,
        pass_fds=[lock],
        env={**os.environ, "TUNE_ATTEMPT": str(attempt), "TUNE_SUPERVISOR": str(os.getpid())},
    )
    if signals:
        worker.send_signal(signals[0])
    code = worker.wait()
    result = run.result()
    if result is None or result.get("attempt") != attempt:
        result = died(code, attempt, signals, run)
        write_json(run.path / "result.json", result)
        append_event(
            run.path / "events.jsonl",
            {"time": time.time(), "attempt": attempt, "type": "state", "state": result["state"]},
        )
    if run.status().get("state") not in FINAL_STATES:
        write_json(run.path / "status.json", {**run.status(), "state": result["state"], "heartbeat": time.time()})
    return int(result["exit_code"])


def died(code: int, attempt: int, signals: list[int], run: Run) -> dict[str, Any]:
    """The result of a worker that ended with `code` (negative: minus the signal) and left none."""
    status = run.status()
    if len(signals) > 1:
        state, exit_code = ("stopped", 130) if signals[0] == signal.SIGINT else ("failed", 5)
        what = "the worker was killed on a second signal, before it could save"
    elif code < 0:
        state, exit_code = "failed", 5
        what = f"the worker was killed by signal {-code} ({_signal_name(-code)})"
    else:
        state, exit_code = "failed", 5
        what = f"the worker ended with code {code} and left no result"
    hint = f"tune resume {run.id} continues at the newest complete checkpoint; {run.path / 'engine.log'} has the end of the story"
    if code == -signal.SIGKILL and len(signals) < 2:
        hint = f"this is often the system running out of memory; {hint}"
    return {
        "state": state,
        "exit_code": exit_code,
        "attempt": attempt,
        "error": {"problems": [Problem(what, hint=hint).to_json()]},
        "step": status.get("step"),
        "epoch": status.get("epoch"),
        "metrics": {},
        "adapter": None,
        "digest": None,
        "duration_s": time.time() - float(status.get("started") or time.time()),
        "phases": {},
    }


def hold(run: Run) -> int:
    """Takes the run's lock and returns its file descriptor; `Busy` names the process that has it."""
    path = run.path / "run.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder: dict[str, Any] = {}
        with contextlib.suppress(UsageError):
            holder = read_json(path) or {}
        since = holder.get("since")
        when = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if since else "an unknown time"
        raise Busy(
            f"run {run.id} is held by process {holder.get('pid', 'unknown')} on {holder.get('host', 'this host')} since {when}",
            hint=f"tune watch {run.id} follows it, tune stop {run.id} ends it",
        ) from None
    content = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content.encode(), 0)
    return descriptor


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
