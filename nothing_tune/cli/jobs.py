"""An engine job as a command sees it: started, asked in JSON lines, its errors raised as ours, ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from types import TracebackType
from typing import Any

from nothing_tune.errors import Problem, RunError, StorageError, TuneError

END_S = 5.0
"""Longest wait, in seconds, for a job that was told to end; then it is killed."""


class Job:
    """A job and its pipes; a context manager that ends it. What is said on stdout beside JSON objects with a `type` is passed over.

    `baffled` turns true when the job ended without a word or by an error that is none of ours, so that its log is worth a look.
    """

    def __init__(self, process: Popen[bytes], name: str, hint: str = "") -> None:
        """`name` is what messages call the job (`the chat`), `hint` where to look when it ends without a word."""
        self.process = process
        self.name = name
        self.hint = hint
        self.baffled = False

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def send(self, data: Mapping[str, Any]) -> None:
        """Writes one JSON line; a job that has ended is found out by the next `read`."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write((json.dumps(data, ensure_ascii=False) + "\n").encode())
            self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """The next event. Raises what an `error` event says, and `RunError` where the job ended without one."""
        assert self.process.stdout
        while line := self.process.stdout.readline():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("type") == "error":
                    error = error_of(event, self.name, self.hint)
                    self.baffled = bool(self.hint) and self.hint in error.problems[0].hint
                    raise error
                if isinstance(event, dict) and "type" in event:
                    return event
        self.baffled = True
        raise RunError(f"{self.name} ended {self._how()}", hint=self.hint)

    def _how(self) -> str:
        """`without a word`, or by which signal: a crash of a library, or the system's."""
        with contextlib.suppress(TimeoutExpired, ValueError):
            code = self.process.wait(END_S)
            if code < 0:
                return f"by {signal.Signals(-code).name}"
        return "without a word"

    def close(self) -> None:
        """Ends the job; harmless when it has ended."""
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(END_S)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@contextlib.contextmanager
def job(arguments: Sequence[str], name: str) -> Iterator[Job]:
    """A job that belongs to no run: what libraries say goes to a file that is kept only where nobody knows what went wrong.

    Raises:
        StorageError: There is no place for that file.
        LaunchError: The engine cannot be started.
    """
    from nothing_tune.launchers import local

    try:
        handle, path = tempfile.mkstemp(prefix=f"tune-{arguments[0]}-", suffix=".log")
    except OSError as error:
        raise StorageError(
            f"cannot write to {tempfile.gettempdir()}: {error.strerror}", hint="free some space, or set TMPDIR"
        ) from error
    os.close(handle)
    log, hint = Path(path), f"{path} has the libraries' words"
    running: Job | None = None
    try:
        with Job(local.job(arguments, log), name, hint) as running:
            yield running
    finally:
        if running is None or not running.baffled:
            log.unlink(missing_ok=True)


def error_of(event: Mapping[str, Any], name: str, hint: str = "") -> TuneError:
    """The error that a job reports, with the class that has its exit code and all its problems.

    Args:
        event: Its `error` event.
        name: What messages call the job.
        hint: Where to look when the error is a bug of ours, or one that nobody foresaw.
    """
    from nothing_tune.cli.live import from_json

    code = event.get("exit_code")
    kinds: list[type[TuneError]] = [TuneError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    chosen = next((kind for kind in kinds if kind.exit_code == code), RunError)
    problems = [from_json(p) for p in event.get("problems") or [] if isinstance(p, dict)]
    problems = problems or [Problem(str(event.get("what") or f"{name} failed"), hint=str(event.get("hint") or ""))]
    if hint and chosen is TuneError:
        problems = [replace(p, hint=f"please report it; {hint}") for p in problems]
    elif hint and chosen is RunError:
        problems = [replace(p, hint=hint) if "engine.log" in p.hint else p for p in problems]
    return chosen(*problems)
