"""What a running engine tells the world: events.jsonl, and status.json with its heartbeat. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from nothing_tune.artifacts import HEARTBEAT_S, Run, append_event, attempts, write_json
from nothing_tune.errors import StorageError

KEPT = ("created", "started", "recipe", "gpu", "step", "total_steps")
"""Fields of the status before that a new attempt keeps."""


class Journal:
    """Appends events and keeps status.json fresh from a thread of its own, so that training never waits for the disk.

    A change of the status is on disk within a second; without a change the heartbeat is renewed every `HEARTBEAT_S`.
    Of several ranks only rank 0 writes; the others keep their fields in memory. Nothing is written any more once a later
    attempt owns the run.
    """

    def __init__(self, run: Run, attempt: int, rank: int = 0, **status: Any) -> None:
        self.run = run
        self.attempt = attempt
        self.rank = rank
        before = attempts.salvage(run.path / "status.json")[0] or {}
        self._status: dict[str, Any] = {
            **{k: before[k] for k in KEPT if k in before}, "attempt": attempt, "progress": time.time(), **status,
        }  # fmt: skip
        self._silent = rank > 0
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the heartbeat."""
        self._write()
        if self._silent:
            return
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def event(self, kind: str, **fields: Any) -> None:
        """Appends one event of type `kind` with the time and attempt. A new phase is progress."""
        if kind == "phase":
            self.progress()
        if not self._silent:
            append_event(
                self.run.path / "events.jsonl", {"time": time.time(), "attempt": self.attempt, "type": kind, **fields}
            )

    def warn(self, what: str, hint: str = "") -> None:
        """Appends a `warning` event: something that the user should know and that does not stop the run."""
        self.event("warning", what=what, hint=hint)

    def status(self, **fields: Any) -> None:
        """Changes fields of status.json; written within a second. A step is progress."""
        with self._lock:
            self._status.update(fields)
            if "step" in fields:
                self._status["progress"] = time.time()
        self._dirty.set()

    def progress(self) -> None:
        """Notes that the run gets on: the supervisor takes one that does not for hanging. For step ends, phases, evaluation batches."""
        with self._lock:
            self._status["progress"] = time.time()
        self._dirty.set()

    def state(self, state: str) -> None:
        """Moves the run to `state`: an event, and status.json at once."""
        self.event("state", state=state)
        self.status(state=state)
        self._write()

    def get(self, key: str, default: Any = None) -> Any:
        """A field of the status as it stands."""
        return self._status.get(key, default)

    def close(self) -> None:
        """Ends the heartbeat; the last status stays."""
        self._end.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()
            with contextlib.suppress(StorageError):
                self._write()

    def silence(self) -> None:
        """From here on nothing is written: the run belongs to another attempt."""
        self._silent = True

    def _beat(self) -> None:
        while not self._end.is_set():
            self._dirty.wait(HEARTBEAT_S)
            self._dirty.clear()
            if self._end.is_set():
                return
            if attempts.newest(self.run) > self.attempt:
                self.silence()
            with contextlib.suppress(StorageError):  # the training thread meets the same disk, and says so
                self._write()
            self._end.wait(1.0)

    def _write(self) -> None:
        if self._silent:
            return
        with self._lock:
            self._status["heartbeat"] = time.time()
            # A heartbeat is worth nothing after a power cut: no fsync, which would hold up a training on the CPU.
            write_json(self.run.path / "status.json", self._status, durable=False)
