"""The file of all answers, beside the output: one JSON object a line, appended, never changed. What is in it is not asked again.

    OUTPUT.generate/answers.jsonl    {"key", "prompt", "group", "text", "finish", "tokens_in", "tokens_out", "taken", "why", "time"}
                                     or {"key", ..., "fault", "lasting"} for a question that got no answer
    OUTPUT.generate/lock             held while a process asks

A line that was torn by a crash is passed over, and so is what is no answer. `taken` and `why` say what the filters of that time
decided, for people; they are decided anew from the texts each time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from nothing_tune.artifacts import fsync_dir
from nothing_tune.engine.generate.questions import Answer, Question
from nothing_tune.errors import Busy, Problem, StorageError

SUFFIX = ".generate"
FSYNC_LINES = 20
"""Lines after which the disk is told to keep what was written; a kill loses none, a power cut these at most."""
FSYNC_S = 2.0
"""Seconds after which it is told, too."""
MEND = "free some space or mend the permissions; every answer so far is kept, and the same command goes on"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def folder(output: Path) -> Path:
    """Where the answers for `output` are kept."""
    return output.with_name(output.name + SUFFIX)


class Ledger:
    """The answers of one output; a context manager that holds the output for this process.

    Attributes:
        answers: Key -> the answer, in the order in which they came.
        faults: Key -> the last fault of a question that has no answer.
        damaged: Lines that could not be read.
    """

    def __init__(self, output: Path) -> None:
        """Nothing is read or made before the ledger is entered, or `read` is called."""
        self.output = output
        self.path = folder(output) / "answers.jsonl"
        self.answers: dict[str, Answer] = {}
        self.faults: dict[str, Answer] = {}
        self.damaged = 0
        self._file: IO[bytes] | None = None
        self._lock: int | None = None
        self._unsafe = 0
        self._synced = 0.0

    def __enter__(self) -> Ledger:
        """Takes the output, reads what is there, and opens the file. `Busy` when another process has it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path.parent / "lock", self.output)
            self.read()
            self._file = open(self.path, "ab", buffering=0)
            if self._file.tell() and not _ends_whole(self.path):
                self._file.write(b"\n")  # a torn line stays torn: the next one begins anew
            fsync_dir(self.path.parent)
        except OSError as error:
            self.close()
            raise StorageError(f"cannot write {self.path}: {error.strerror}", hint=MEND) from error
        self._synced = time.monotonic()
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def read(self) -> None:
        """Reads the answers that are there; none where there is no file."""
        for entry in self._entries():
            key = entry["key"]
            if entry.get("fault"):
                if key not in self.answers:
                    self.faults[key] = Answer(fault=str(entry["fault"]), lasting=bool(entry.get("lasting")))
            elif (
                key not in self.answers
            ):  # the first one counts: nothing asks twice, but two files may have been joined
                self.faults.pop(key, None)
                self.answers[key] = Answer(
                    str(entry.get("text") or ""),
                    str(entry.get("finish") or "stop"),
                    _count(entry.get("tokens_in")),
                    _count(entry.get("tokens_out")),
                )

    def add(self, question: Question, answer: Answer, taken: bool, why: str, **more: Any) -> None:
        """Appends one answer or fault. `StorageError` when the disk refuses."""
        entry: dict[str, Any] = {
            "key": question.key,
            "prompt": question.prompt.place,
            "group": question.prompt.group,
        }
        if answer.fault:
            entry |= {"fault": answer.fault, "lasting": answer.lasting}
            self.faults[question.key] = answer
        else:
            entry |= {
                "text": answer.text,
                "finish": answer.finish,
                "tokens_in": answer.tokens_in,
                "tokens_out": answer.tokens_out,
                "taken": taken,
                "why": why,
            }
            self.faults.pop(question.key, None)
            self.answers[question.key] = answer
        self._append({**entry, **more, "time": round(time.time(), 3)})

    def sync(self) -> None:
        """Has everything on the disk when this returns."""
        if self._file is not None and self._unsafe:
            os.fsync(self._file.fileno())
            self._unsafe = 0
            self._synced = time.monotonic()

    def close(self) -> None:
        """Lets go of the output; harmless when that was done."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self.sync()
            self._file.close()
            self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _append(self, entry: dict[str, Any]) -> None:
        assert self._file is not None
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._unsafe += 1
            if self._unsafe >= FSYNC_LINES or time.monotonic() - self._synced >= FSYNC_S:
                self.sync()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}", hint=MEND) from error

    def _entries(self) -> Iterator[dict[str, Any]]:
        try:
            with open(self.path, "rb") as lines:
                for line in lines:
                    entry = _parsed(line)
                    if entry is not None:
                        yield entry
                    elif line.strip():
                        self.damaged += 1
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}", hint="mend the permissions") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None when it is none, or was torn."""
    try:
        entry = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("key"), str) and ("text" in entry or entry.get("fault"))
    return entry if whole and line.endswith(b"\n") else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"


def _locked(path: Path, output: Path) -> int | None:
    """The descriptor that holds the lock; None where the file system has none. `Busy` when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        by = f" (process {who})" if who.isdigit() else ""
        raise Busy(
            Problem(
                f"another process makes {output}{by}",
                key="generate.output",
                hint="wait for it, or write to another file with generate.output=FILE",
            )
        ) from None
    except OSError as error:
        os.close(descriptor)
        if error.errno in NO_LOCKS:
            return None
        raise
    with contextlib.suppress(OSError):  # the lock holds without its text
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
