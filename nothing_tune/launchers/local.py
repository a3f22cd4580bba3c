"""Starts the engine on this machine, as a process that outlives the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from nothing_tune.errors import LaunchError, StorageError


def start(run_dir: Path) -> subprocess.Popen[bytes]:
    """Starts the engine on a run directory, detached, its output appended to `engine.log`. `LaunchError` when it cannot start."""
    with _append(run_dir / "engine.log") as log:
        return _popen([str(run_dir)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def job(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts an engine job (`chat RUN_DIR`) that talks JSON lines over its pipes; library noise is appended to `log`."""
    with _append(log) as noise:
        return _popen(list(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise)


def _append(path: Path) -> IO[bytes]:
    try:
        return open(path, "ab")
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}", hint="free some space or mend the permissions"
        ) from error


def _popen(arguments: list[str], **pipes: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nothing_tune.engine", *arguments]
    try:
        return subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]
    except OSError as error:
        raise LaunchError(f"cannot start the engine: {error}", hint=f"the command was: {' '.join(command)}") from error
