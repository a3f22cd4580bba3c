"""Who holds a run, as far as its files and this host's processes tell."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, attempts, write_json
from nothing_tune.run import control


@pytest.fixture
def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def held(tmp_path: Path, gone: int) -> Iterator[Run]:
    """A run whose lock is held, though the supervisor that took it is gone."""
    content = {"pid": gone, **attempts.place(), "since": 5.0}
    (tmp_path / "run.lock").write_text(json.dumps(content))
    with open(tmp_path / "run.lock") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield Run(tmp_path)


def pid_of(run: Run) -> Any:
    found = control.holder(run)
    assert found is not None
    assert found["since"] == 5.0
    return found["pid"]


def test_a_worker_without_a_supervisor_is_named_and_told(held: Run) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        write_json(held.path / "status.json", {"worker": os.getpid()})
        assert pid_of(held) == os.getpid()
        assert control.interrupt(held, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]


def test_no_other_pid_is_named_where_none_is_known(held: Run, gone: int) -> None:
    for status in ({}, {"worker": None}, {"worker": gone}):
        write_json(held.path / "status.json", status)
        assert pid_of(held) == gone
        assert not control.interrupt(held)


def test_a_pid_of_another_host_is_left_as_it_is(held: Run, gone: int) -> None:
    write_json(held.path / "status.json", {"worker": os.getpid()})
    (held.path / "run.lock").write_text(json.dumps({"pid": gone, "host": "elsewhere", "since": 5.0}))
    assert pid_of(held) == gone
