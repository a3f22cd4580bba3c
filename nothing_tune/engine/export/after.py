"""What a recipe's `export` section asks for, done when the training is. Light: the export is a process of its own.

exports/events.jsonl   what the job says, and at last {"type": "end", "exit_code"}
exports/result.json    {"exit_code", "wanted", "which", "time"}: an export that succeeded is not done again
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

from nothing_tune.artifacts import Run, append_event, read_json, write_json
from nothing_tune.errors import LaunchError, ProofFailed, RunError, StorageError, UsageError
from nothing_tune.outputs import Wanted

EVENTS = "events.jsonl"
RESULT = "result.json"


def after(run: Run) -> int:
    """Exports what the run's recipe names, unless that is done; returns the exit code, 0 where nothing is wanted.

    Raises:
        StorageError: The folder of exports cannot be written.
        LaunchError: The job cannot be started.
    """
    values = run.plan().get("values") or {}
    wanted, which = Wanted.of(values), str((values.get("export") or {}).get("checkpoint") or "handed-over")
    if not wanted or is_done(run, wanted, which):
        return 0
    folder = run.path / "exports"
    try:
        folder.mkdir(exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
        (folder / EVENTS).write_text("", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot write in {folder}: {error.strerror}", hint="free some space, then tune export"
        ) from error
    code = RunError.exit_code
    try:
        code = _job(run, {"do": "make", "run": str(run.path), "which": which, "wanted": wanted.to_json(), "to": None})
    except (KeyboardInterrupt, SystemExit):
        code = 130
    finally:
        append_event(folder / EVENTS, {"type": "end", "exit_code": code})
        write_json(
            folder / RESULT, {"exit_code": code, "wanted": wanted.to_json(), "which": which, "time": time.time()}
        )
    return code


def is_done(run: Run, wanted: Wanted, which: str) -> bool:
    """Whether exactly this was exported when the run ended, and proved."""
    try:
        found = read_json(run.path / "exports" / RESULT) or {}
    except UsageError:
        return False
    return (found.get("exit_code"), found.get("wanted"), found.get("which")) == (
        0,
        json.loads(json.dumps(wanted.to_json())),
        which,
    )


def _job(run: Run, request: dict[str, Any]) -> int:
    """Runs the export job on `request`, its events kept; returns the exit code, that of a failed proof included."""
    command = [sys.executable, "-m", "nothing_tune.engine", "export"]
    with open(run.path / "engine.log", "ab") as log:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        except OSError as error:
            raise LaunchError(
                f"cannot start the export: {error}", hint=f"the command was: {' '.join(command)}"
            ) from error
    assert process.stdin
    assert process.stdout
    wrong = False
    with process, _terminated(process):
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write((json.dumps(request) + "\n").encode())
            process.stdin.close()
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("type"):
                    append_event(run.path / "exports" / EVENTS, event)
                    proof = event.get("proof")
                    wrong |= isinstance(proof, dict) and proof.get("ok") is False
        code = process.wait()
    return code or (ProofFailed.exit_code if wrong else 0)


@contextlib.contextmanager
def _terminated(process: subprocess.Popen[bytes]) -> Any:
    """Ends the job with this process: on SIGTERM and on any way out."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
