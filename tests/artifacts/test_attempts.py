"""One owner: the lock, the lease, the fencing token, and what a damaged or foreign attempt means."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, attempts, read_json, write_json
from nothing_tune.errors import Busy, StorageError

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    path = tmp_path / "run-0001"
    path.mkdir()
    return Run(path)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are watched for half a second, and the lock is tried for a tenth."""
    monkeypatch.setattr(attempts, "WATCH_S", 0.5)
    monkeypatch.setattr(attempts, "LOCK_PATIENCE_S", 0.1)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that answers every flock with ENOLCK."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def lease(run: Run, number: int = 1, **fields: Any) -> Path:
    """An attempt as another host would have left it; `beat_s` seconds since its heartbeat."""
    now = time.time()
    path = run.path / "attempts" / f"{number:04}.json"
    path.parent.mkdir(exist_ok=True)
    entry = {
        "attempt": number, "owner": "f" * 32, "host": "elsewhere", "boot": "b", "space": "pid:[1]", "pid": 4711,
        "created": 1790000000.0, "heartbeat": now - fields.pop("beat_s", 0.0), "ended": None, "state": "running",
    }  # fmt: skip
    write_json(path, {**entry, **fields})
    return path


def test_the_number_counts_on_and_says_who_where_and_when(run: Run) -> None:
    first = attempts.begin(run)
    attempts.beat(run, first, step=3, state="running")
    attempts.end(run, first, state="failed", exit_code=5, error="boom")
    second = attempts.begin(run)
    assert (first.number, second.number) == (1, 2)
    assert first.owner != second.owner
    one, two = attempts.all(run)
    assert {k: one[k] for k in ("attempt", "owner", "host", "pid", "state", "exit_code", "error", "step")} == {
        "attempt": 1, "owner": first.owner, "host": socket.gethostname(), "pid": os.getpid(), "state": "failed", "exit_code": 5,
        "error": "boom", "step": 3,
    }  # fmt: skip
    assert one["created"] <= one["heartbeat"] <= one["ended"]
    assert (two["ended"], two["exit_code"], two["acts"]) == (None, None, [])
    assert [p.name for p in (run.path / "attempts").iterdir() if p.name.startswith(".")] == []


def test_an_old_run_without_attempts_counts_on_from_its_status(run: Run) -> None:
    write_json(run.path / "status.json", {"attempt": 4})
    assert attempts.begin(run).number == 5
    write_json(run.path / "status.json", {"attempt": 2})
    (run.path / "attempts" / "0005.json").write_text(json.dumps({"ended": 1.0}))
    assert attempts.begin(run).number == 6


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"attempt": "x", "ended": "y"}', "\0\0\0"])
def test_a_damaged_attempt_stops_nobody_and_is_told(run: Run, text: str) -> None:
    folder = run.path / "attempts"
    folder.mkdir()
    (folder / "0007.json").write_text(text)
    (run.path / "status.json").write_text("{")
    said: list[str] = []
    assert attempts.begin(run, locked=True, say=said.append).number == 8
    assert len(said) == (0 if "ended" in text else 1)
    assert all("0007.json is damaged" in what for what in said)
    assert [a["attempt"] for a in attempts.all(run)] == [7, 8]


@pytest.mark.usefixtures("soon")
def test_the_lock_names_its_holder(run: Run) -> None:
    descriptor = attempts.hold(run)
    assert descriptor is not None
    with pytest.raises(
        Busy, match=rf"run run-0001 is held by process {os.getpid()} on {socket.gethostname()} since 20"
    ):
        attempts.hold(run)
    (run.path / "run.lock").write_text("{torn")
    with pytest.raises(Busy, match="run run-0001 is held by process unknown on this host since an unknown time"):
        attempts.hold(run)
    os.close(descriptor)
    (run.path / "run.lock").write_text("\0\1 nonsense")
    again = attempts.hold(run)
    assert again is not None
    os.close(again)


def test_a_reader_that_asks_for_an_instant_does_not_make_the_run_busy(run: Run) -> None:
    with open(run.path / "run.lock", "w") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.2, lambda: fcntl.flock(reader, fcntl.LOCK_UN)).start()
        descriptor = attempts.hold(run)
    assert descriptor is not None
    os.close(descriptor)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_lease_alone_holds(run: Run) -> None:
    assert attempts.hold(run) is None
    attempts.begin(run)
    with pytest.raises(Busy, match=f"is held by process {os.getpid()} on {socket.gethostname()} since"):
        attempts.begin(run)


def test_a_dead_process_of_this_host_leaves_its_attempt(run: Run) -> None:
    child = FORK.Process(target=attempts.begin, args=(run,))
    child.start()
    child.join()
    assert attempts.begin(run, locked=False).number == 2


def test_with_the_lock_an_attempt_of_this_host_is_over_though_its_pid_lives_again(run: Run) -> None:
    attempts.begin(run)
    assert attempts.begin(run, locked=True).number == 2


@pytest.mark.parametrize("locked", [False, True])
def test_a_foreign_owner_with_a_fresh_heartbeat_lives(run: Run, locked: bool) -> None:
    lease(run, beat_s=40.0)
    with pytest.raises(Busy) as caught:
        attempts.begin(run, locked=locked)
    problem = caught.value.problems[0]
    assert problem.what == "run run-0001 is held by process 4711 on elsewhere since 2026-09-21 14:13:20 UTC"
    assert problem.hint == "tune watch run-0001 follows it, tune stop run-0001 ends it"


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("beat_s", [3600.0, -3600.0], ids=["its clock is late", "its clock is early"])
def test_a_foreign_heartbeat_that_moves_lives_whatever_its_clock_says(run: Run, beat_s: float) -> None:
    path = lease(run, beat_s=beat_s)
    code = (
        "import json, sys, time, pathlib, os\np = pathlib.Path(sys.argv[1])\n"
        "while True:\n  time.sleep(0.1); d = json.loads(p.read_text()); d['heartbeat'] += 0.1\n"
        "  q = p.with_suffix('.new'); q.write_text(json.dumps(d)); os.replace(q, p)\n"
    )
    beating = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        with pytest.raises(Busy, match="on elsewhere since"):
            attempts.begin(run)
    finally:
        beating.kill()
        beating.wait()
    assert attempts.newest(run) == 1


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("beat_s", [90.0, -3600.0])
def test_an_abandoned_lease_is_taken_over_and_that_is_told(run: Run, beat_s: float) -> None:
    lease(run, 3, beat_s=beat_s)
    said: list[str] = []
    taken = attempts.begin(run, locked=True, say=said.append)
    assert taken.number == 4
    assert said == ["attempt 3 on elsewhere was taken over: its heartbeat did not move"]
    with pytest.raises(Busy) as caught:
        attempts.owned(run, 3, "f" * 32)
    assert caught.value.problems[0].what == f"run run-0001 was taken over by attempt 4 on {socket.gethostname()}"
    attempts.owned(run, 4, taken.owner)


@pytest.mark.usefixtures("soon")
def test_a_foreign_owner_on_a_full_disk_still_lives(run: Run) -> None:
    """Its heartbeat cannot be written, but the file's time moves."""
    path = lease(run, beat_s=90.0)
    stop = threading.Event()

    def touch() -> None:
        while not stop.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(Busy):
            attempts.begin(run)
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("links", [True, False])
def test_of_eight_that_take_over_one_wins(run: Run, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def no_link(*_: Any) -> None:
            raise OSError(errno.EPERM, "no hard links")

        monkeypatch.setattr(os, "link", no_link)
    lease(run, 5, beat_s=90.0)
    start = FORK.Event()
    answers = FORK.Queue()
    done = FORK.Event()

    def take() -> None:
        start.wait()
        try:
            attempt = attempts.begin(run)
            attempts.owned(run, attempt.number, attempt.owner)
            answers.put(("won", attempt.number))
            done.wait()  # a winner that has left would free the run
        except Busy:
            answers.put(("busy", 0))

    racers = [FORK.Process(target=take) for _ in range(8)]
    for racer in racers:
        racer.start()
    start.set()
    found = [answers.get(timeout=60) for _ in racers]
    done.set()
    for racer in racers:
        racer.join()
    assert sorted(found) == [("busy", 0)] * 7 + [("won", 6)]
    assert attempts.newest(run) == 6


def test_the_owner_is_told_apart_from_another_with_its_number(run: Run) -> None:
    attempt = attempts.begin(run)
    attempts.owned(run, 1, attempt.owner)
    attempts.owned(run, 1)
    with pytest.raises(Busy, match="attempt 1 of run run-0001 belongs to another process"):
        attempts.owned(run, 1, "0" * 32)


def test_nobody_is_fenced_where_the_folder_is_gone(run: Run) -> None:
    attempts.owned(run, 1, "0" * 32)
    assert attempts.newest(run) == 0
    assert attempts.all(run) == []


def test_a_full_disk_kills_no_heartbeat(run: Run) -> None:
    """A limit on the size of files refuses every write, as a full disk does; in a child, which cannot lift it again."""
    attempt = attempts.begin(run)
    path = run.path / "attempts" / "0001.json"
    os.utime(path, (0, 0))

    def child() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        attempts.beat(run, attempt, step=9)
        attempts.end(run, attempt, state="failed")

    process = FORK.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert path.stat().st_mtime > 0
    entry = read_json(path)
    assert (entry["step"], entry["ended"]) == (0, None)


def test_a_full_disk_at_the_start_is_said(run: Run) -> None:
    def child() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            attempts.begin(run)
        except StorageError as error:
            os._exit(74 if "0001.json: File too large" in error.problems[0].what else 1)
        os._exit(0)

    process = FORK.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 74
    assert list((run.path / "attempts").iterdir()) == []


def test_a_lease_tells_readers_who_works(run: Run) -> None:
    assert attempts.leased(run) is None
    lease(run, beat_s=30.0)
    found = attempts.leased(run)
    assert found is not None
    assert (found["pid"], found["host"], found["since"]) == (4711, "elsewhere", 1790000000.0)
    lease(run, beat_s=70.0)
    assert attempts.leased(run) is None
    lease(run, ended=1.0)
    assert attempts.leased(run) is None
    (run.path / "attempts" / "0001.json").write_text("{")
    assert attempts.leased(run) is None


def test_adjustments_are_read_past_damage(run: Run) -> None:
    assert attempts.adjustments(run) == ([], None)
    entry = {"what": "micro batch 8 -> 4", "training": {"per_device_train_batch_size": 4}}
    write_json(run.path / "adjustments.json", [entry, {"training": None}, 3])
    assert attempts.adjustments(run) == ([entry], None)
    for text in ("{}", "[", "null\0"):
        (run.path / "adjustments.json").write_text(text)
        found, why = attempts.adjustments(run)
        assert found == []
        assert why
