"""Who may write to a run: the lock of this host, and the lease that holds between hosts too.

    run.lock             flock, held by the supervisor and its workers, where the file system has it
    attempts/0001.json   one file per attempt, made by whoever takes the run: the lease. The highest number owns the run

The number is a fencing token: it is asked for before every commit, and whoever finds a higher one touches nothing more.
A lease lives while its heartbeat moves; a dead owner's is taken over by the next attempt.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nothing_tune.artifacts.files import finite, fsync_dir, read_json, write_json
from nothing_tune.artifacts.runs import HEARTBEAT_S, LOST_AFTER_S, Run
from nothing_tune.errors import Busy, StorageError, UsageError

FOLDER = "attempts"
ADJUSTMENTS = "adjustments.json"
WATCH_S = 2 * HEARTBEAT_S + 1.0
"""Seconds for which a lease that looks abandoned is watched before it is taken over: two heartbeats and a little."""
LOCK_PATIENCE_S = 1.0
"""Seconds for which a lock that is held is tried again: a reader that asks who holds the run has it for an instant."""
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EIO}
"""What a file system without locks answers."""
_NAME = re.compile(r"^(\d{4,})\.json$")


@dataclass(frozen=True)
class Attempt:
    """The right to write to a run: `number` counts from 1 and is the fencing token, `owner` tells two claims apart."""

    number: int
    owner: str


def hold(run: Run) -> int | None:
    """Takes the run's lock and returns its file descriptor; None where the file system has no locks.

    Raises:
        Busy: Another process has it; names the process, its host and since when.
        StorageError: The run directory cannot be written.
    """
    path = run.path / "run.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error.strerror}", hint=_MEND) from error
    end = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise busy(run, salvage(path)[0] or {}) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                return None
            raise StorageError(f"cannot lock {path}: {error.strerror}", hint=_MEND) from error
    content = json.dumps({"pid": os.getpid(), **place(), "since": time.time()})
    with contextlib.suppress(OSError):  # the lock holds without its text
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content.encode(), 0)
    return descriptor


def begin(run: Run, *, locked: bool = False, say: Callable[[str], None] = lambda _: None) -> Attempt:
    """Claims the next attempt at `run`.

    Args:
        locked: This process has the run's lock, so that nobody else on this host works on the run.
        say: Told what is worth an event: that a lease was taken over, that a file was damaged.

    Raises:
        Busy: The owner of the last attempt lives; names the process, its host and since when.
        StorageError: The run directory cannot be written.
    """
    folder = run.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}", hint=_MEND) from error
    while True:
        last, over = _last(run), ""
        if last is not None:
            verdict = _is_over(run, last, locked)
            if verdict is None:
                raise busy(run, {**last, "since": last.get("created")})
            over = verdict
        status = salvage(run.path / "status.json")[0] or {}
        number = max(int(last["attempt"]) if last else 0, _whole(status.get("attempt"))) + 1
        attempt = Attempt(number, uuid.uuid4().hex)
        if not _claim(run, attempt):
            continue  # another process was faster: see who
        try:
            owned(run, attempt.number, attempt.owner)
        except Busy:
            if _at(run, number).get("owner") == attempt.owner:
                _path(run, number).unlink(missing_ok=True)
            raise
        if over:
            say(over)
        return attempt


def owned(run: Run, number: int, owner: str = "") -> None:
    """`Busy` when attempt `number` of `owner` does not own the run any more: a later attempt was begun. Cheap."""
    last = newest(run)
    if last > number:
        other = _at(run, last)
        raise Busy(
            f"run {run.id} was taken over by attempt {last} on {other.get('host', 'another host')}",
            hint=f"nothing of attempt {number} is written any more; tune watch {run.id} follows the new one",
        )
    found = _at(run, number).get("owner") if owner and last == number else None
    if found is not None and found != owner:
        raise Busy(f"attempt {number} of run {run.id} belongs to another process", hint=f"tune watch {run.id} shows it")


def newest(run: Run) -> int:
    """The highest attempt number; 0 when there is none."""
    try:
        with os.scandir(run.path / FOLDER) as entries:
            return max((int(m.group(1)) for m in (_NAME.match(e.name) for e in entries) if m), default=0)
    except OSError:
        return 0


def beat(run: Run, attempt: Attempt, **fields: Any) -> None:
    """Renews the heartbeat of `attempt` and sets `fields`. A full disk is passed over: the file's time still moves."""
    data = {**_fresh(attempt), **_at(run, attempt.number), **fields, "heartbeat": time.time()}
    path = _path(run, attempt.number)
    try:
        write_json(path, data, durable=False)
    except StorageError:
        with contextlib.suppress(OSError):
            os.utime(path)


def end(run: Run, attempt: Attempt, **fields: Any) -> None:
    """Closes `attempt`: `ended` is set, and the next one need not wait. A full disk is passed over."""
    now = time.time()
    data = {**_fresh(attempt), **_at(run, attempt.number), **fields, "heartbeat": now, "ended": now}
    with contextlib.suppress(StorageError):
        write_json(_path(run, attempt.number), data)


def all(run: Run) -> list[dict[str, Any]]:  # noqa: A001
    """Every attempt, the first one first; of a damaged file only `attempt` and `damaged`, why."""
    out = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(run.path / FOLDER)):
            match = _NAME.match(name)
            if match:
                found, why = salvage(run.path / FOLDER / name)
                out.append({**(found or {"damaged": why or "it is empty"}), "attempt": int(match.group(1))})
    return sorted(out, key=lambda a: int(a["attempt"]))


def leased(run: Run) -> dict[str, Any] | None:
    """The last attempt while it is worked on, as far as its file tells: `{pid, host, since, ...}`; None otherwise.

    On this host a process that is gone has left; on another one the heartbeat must be younger than `LOST_AFTER_S` seconds.
    """
    last = _last(run)
    if last is None or last.get("ended") or "damaged" in last or (is_here(last) and not _pid_lives(last)):
        return None
    return {**last, "since": last.get("created")} if _age(last) < LOST_AFTER_S else None


def is_here(holder: dict[str, Any]) -> bool:
    """Whether `holder` (`host`, and where known `boot` and `space`) means this host, this boot and this container."""
    mine = place()
    return holder.get("host") == mine["host"] and {k: holder.get(k, v) for k, v in mine.items()} == mine


def place() -> dict[str, str]:
    """Where this process runs: host name, id of the boot, and the space in which its pid means something."""
    boot = space = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "boot": boot, "space": space}


def adjustments(run: Run) -> tuple[list[dict[str, Any]], str | None]:
    """What was changed after out of memory, oldest first, and why the file cannot be read where it cannot."""
    found, why = _read(run.path / ADJUSTMENTS)
    if why is None and found is not None and not isinstance(found, list):
        why = "it is no list"
    entries = found if isinstance(found, list) else []
    return [e for e in entries if isinstance(e, dict) and isinstance(e.get("training"), dict)], why


def salvage(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """`(the JSON object in path, None)`, or `(None, why it cannot be read)`; `(None, None)` where there is no file."""
    found, why = _read(path)
    if why is None and found is not None and not isinstance(found, dict):
        why = "it is no object"
    return (found if isinstance(found, dict) else None), why


_MEND = "free some space or mend the permissions"


def _read(path: Path) -> tuple[Any, str | None]:
    try:
        return read_json(path), None
    except UsageError as error:
        return None, error.problems[0].what.removeprefix(f"cannot read {path}: ")


def _fresh(attempt: Attempt) -> dict[str, Any]:
    now = time.time()
    return {
        "attempt": attempt.number, "owner": attempt.owner, **place(), "pid": os.getpid(), "created": now, "heartbeat": now,
        "ended": None, "state": "starting", "exit_code": None, "error": None, "from_step": 0, "step": 0, "acts": [],
    }  # fmt: skip


def _claim(run: Run, attempt: Attempt) -> bool:
    """Makes the attempt's file with its content, unless there is one: False then. A hard link shows it whole or not at all."""
    path, text = _path(run, attempt.number), json.dumps(finite(_fresh(attempt)), indent=1) + "\n"
    temp = path.with_name(f".{path.name}.{attempt.owner}.tmp")
    try:
        with open(temp, "x", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            try:
                with open(path, "x", encoding="utf-8") as handle:
                    handle.write(text)
                    handle.flush()
                    os.fsync(handle.fileno())
            except FileExistsError:
                return False
        fsync_dir(path.parent)
        return True
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", hint=_MEND) from error
    finally:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)


def _is_over(run: Run, last: dict[str, Any], locked: bool) -> str | None:
    """Whether the last attempt is over: a text for an event, empty when there is nothing to say; None while it lives."""
    number = int(last["attempt"])
    if last.get("ended"):
        return ""
    if "damaged" in last and locked:
        return f"{FOLDER}/{number:04}.json is damaged ({last['damaged']}) and passed over"
    if "damaged" not in last and is_here(last) and (locked or not _pid_lives(last)):
        return ""
    age = _age(last)
    if "damaged" not in last and -LOST_AFTER_S < age < LOST_AFTER_S:
        return None
    # It looks abandoned; but the clocks of two hosts may differ, so see whether it really does not move.
    mark, until = _mark(run, number), time.monotonic() + WATCH_S
    while time.monotonic() < until:
        time.sleep(min(0.25, WATCH_S / 4))
        if newest(run) != number or _mark(run, number) != mark:
            return None if newest(run) == number else ""  # a newer attempt: claiming the next number will tell
    where = last.get("host", "an unknown host")
    return f"attempt {number} on {where} was taken over: its heartbeat did not move"


def _mark(run: Run, number: int) -> tuple[Any, int]:
    with contextlib.suppress(OSError):
        return _at(run, number).get("heartbeat"), _path(run, number).stat().st_mtime_ns
    return None, 0


def _last(run: Run) -> dict[str, Any] | None:
    number = newest(run)
    if number == 0:
        return None
    found, why = salvage(_path(run, number))
    return {**(found or {"damaged": why or "it is empty"}), "attempt": number}


def _at(run: Run, number: int) -> dict[str, Any]:
    return salvage(_path(run, number))[0] or {}


def _path(run: Run, number: int) -> Path:
    return run.path / FOLDER / f"{number:04}.json"


def _age(entry: dict[str, Any]) -> float:
    beat_at = entry.get("heartbeat")
    return time.time() - float(beat_at) if isinstance(beat_at, int | float) else float("inf")


def _pid_lives(entry: dict[str, Any]) -> bool:
    pid = _whole(entry.get("pid"))
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and value == value else 0


def busy(run: Run, holder: dict[str, Any]) -> Busy:
    """The error that says who holds a run, and since when; `holder` has `pid`, `host` and `since`, as far as known."""
    since = holder.get("since")
    when = (
        datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if isinstance(since, int | float) and since
        else "an unknown time"
    )
    return Busy(
        f"run {run.id} is held by process {holder.get('pid', 'unknown')} on {holder.get('host', 'this host')} since {when}",
        hint=f"tune watch {run.id} follows it, tune stop {run.id} ends it",
    )
