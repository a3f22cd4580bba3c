"""Removes runs by moving them to a trash beside them, gives them back, and empties the trash.

    <runs root>/.trash/<run-id>.<unix seconds>/     the run as it was

A move within one folder is one rename: nothing is copied, and a kill leaves the run in one of the two places. Only
`empty` deletes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import FINAL_STATES, RUN_ID, Run, attempts, checkpoint, fsync_dir
from nothing_tune.artifacts.runs import TRASH
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.run.control import holder

FOLDER = TRASH
_ENTRY = re.compile(r"^(?P<run>.+)\.(?P<at>\d{1,12})$")


@dataclass(frozen=True)
class Trashed:
    """A run in the trash: its id, when it was removed (Unix seconds), where it lies, and its size in bytes."""

    run: str
    removed: int
    path: Path
    bytes: int


def remove(run: Run, root: Path) -> Trashed:
    """Moves `run` (from `artifacts.find_own`) to the trash of `root`.

    Raises:
        Busy: A live process holds the run, on this machine or on another.
        UsageError: The run has pinned checkpoints, or the trash is a link.
        StorageError: The disk refuses.
    """
    _refuse_held(run)
    pins = checkpoint.pinned(run.path)
    if pins:
        raise UsageError(
            f"run {run.id} has pinned checkpoints and is not removed: step {', '.join(map(str, pins))}",
            hint=f"tune runs pin {run.id} --remove lets go of them",
        )
    trash = _folder(root)
    total = size(run.path)
    at = int(time.time())
    try:
        trash.mkdir(exist_ok=True)
        with _locked(run):
            while os.path.lexists(trash / f"{run.id}.{at}"):
                at += 1
            target = trash / f"{run.id}.{at}"
            os.rename(run.path, target)
    except OSError as error:
        raise StorageError(f"cannot move {run.path} to {trash}: {error.strerror}") from error
    fsync_dir(trash)
    fsync_dir(root)
    return Trashed(run.id, at, target, total)


def restore(name: str, root: Path) -> Run:
    """Gives back the run `name` (an id; the one removed last), or exactly `<id>.<unix seconds>`.

    Raises:
        UsageError: It is not in the trash, or a run of that name exists.
        StorageError: The disk refuses.
    """
    found = [t for t in trashed(root) if name in (t.run, t.path.name)]
    if not found:
        there = sorted({t.run for t in trashed(root)})
        hint = f"in the trash: {', '.join(there)}" if there else "the trash is empty"
        raise UsageError(f"no run {name!r} in the trash of {root}", hint=hint)
    entry = found[-1]
    target = root / entry.run
    if os.path.lexists(target):
        raise UsageError(f"a run named {entry.run} exists in {root}", hint="remove or rename that one first")
    try:
        os.rename(entry.path, target)
    except OSError as error:
        raise StorageError(f"cannot move {entry.path} to {target}: {error.strerror}") from error
    fsync_dir(root)
    return Run(target)


def trashed(root: Path) -> list[Trashed]:
    """What lies in the trash of `root`, oldest first; anything there that is no removed run is passed over."""
    trash = _folder(root)
    out = []
    with suppress(FileNotFoundError), os.scandir(trash) as entries:
        for entry in entries:
            match = _ENTRY.match(entry.name)
            if match and RUN_ID.match(match["run"]) and entry.is_dir(follow_symlinks=False):
                path = Path(entry.path)
                out.append(Trashed(match["run"], int(match["at"]), path, size(path)))
    return sorted(out, key=lambda t: (t.removed, t.run))


def empty(root: Path, entries: Sequence[Trashed] | None = None) -> list[Trashed]:
    """Deletes for good `entries` (None: all) of the trash of `root`; returns what went. `StorageError` when something stays."""
    gone = []
    for entry in trashed(root) if entries is None else entries:
        try:
            shutil.rmtree(entry.path)
        except OSError as error:
            raise StorageError(f"cannot delete {entry.path}: {error.strerror}") from error
        gone.append(entry)
    return gone


def size(folder: Path) -> int:
    """Bytes of the files below `folder`; links are not followed, and a file of several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                stat = os.lstat(os.path.join(where, name))
                if (stat.st_dev, stat.st_ino) not in seen:
                    seen.add((stat.st_dev, stat.st_ino))
                    total += stat.st_size
    return total


def _folder(root: Path) -> Path:
    trash = root / FOLDER
    if trash.is_symlink():
        raise UsageError(f"{trash} is a link: runs are not moved out of {root}", hint="remove the link")
    return trash


def _refuse_held(run: Run) -> None:
    """`Busy` when a process on this machine has the run's lock, or one anywhere renews its lease or its heartbeat."""
    held = holder(run) or attempts.leased(run)
    if held is not None:
        raise attempts.busy(run, held)
    status: dict[str, Any] = {}
    with suppress(UsageError):
        status = run.status()
    elsewhere = status.get("pid") and status.get("host") not in (None, socket.gethostname())
    if elsewhere and status.get("state") not in FINAL_STATES and run.state() != "lost":
        raise attempts.busy(run, {**status, "since": status.get("started")})


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Holds the run's lock, so that no engine starts on the run while it moves; without one where there is no lock file."""
    descriptor = None
    try:
        with suppress(OSError):
            descriptor = os.open(run.path / "run.lock", os.O_RDWR)
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _refuse_held(run)
            except OSError:
                pass  # a file system without locks
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
