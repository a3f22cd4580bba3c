"""Removing runs: into the trash and back, never out of the folder of runs, never under a live process."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run, find_own, write_json
from nothing_tune.errors import Busy, UsageError
from nothing_tune.run import pins, trash
from tests.run.support import prepared, save

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = prepared(tmp_path)
    save(made, 10)
    return made


def inventory(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_there_and_back(run: Run, tmp_path: Path) -> None:
    root, before = tmp_path / "runs", inventory(run.path)
    moved = trash.remove(run, root)
    assert moved.path == root / ".trash" / f"parent.{moved.removed}"
    assert moved.bytes == sum(map(len, before.values()))
    assert not run.path.exists()
    assert [t.run for t in trash.trashed(root)] == ["parent"]
    assert trash.restore("parent", root).path == run.path
    assert inventory(run.path) == before
    assert trash.trashed(root) == []


def test_the_same_name_twice_and_the_newest_comes_back(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first = trash.remove(run, root)
    second = trash.remove(prepared(tmp_path), root)
    assert second.path != first.path
    assert trash.restore("parent", root).checkpoints.exists() is False
    with pytest.raises(UsageError, match="a run named parent exists"):
        trash.restore("parent", root)
    trash.remove(Run(root / "parent"), root)
    assert trash.restore(first.path.name, root).checkpoints.is_dir()


def test_emptied_for_good(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    (run.path / "link").symlink_to(tmp_path / "outside")
    trash.remove(run, root)
    (root / ".trash" / "a note of mine").write_text("")
    (root / ".trash" / "elsewhere.123").symlink_to(tmp_path / "outside")
    assert [t.run for t in trash.empty(root)] == ["parent"]
    assert sorted(p.name for p in (root / ".trash").iterdir()) == ["a note of mine", "elsewhere.123"]
    assert (tmp_path / "outside" / "kept").read_text() == "kept"
    with pytest.raises(UsageError, match="no run 'parent' in the trash") as caught:
        trash.restore("parent", root)
    assert caught.value.problems[0].hint == "the trash is empty"


def test_a_live_run_is_left_alone(run: Run, tmp_path: Path) -> None:
    (run.path / "run.lock").write_text('{"pid": 4711, "host": "here"}')
    with open(run.path / "run.lock", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="run parent is held by process 4711 on here"):
            trash.remove(run, tmp_path / "runs")
    trash.remove(run, tmp_path / "runs")


@pytest.mark.parametrize(
    ("host", "beat", "state", "held"),
    [
        ("elsewhere", 0, "running", True),
        ("elsewhere", 3600, "running", False),
        ("elsewhere", 0, "done", False),
        (socket.gethostname(), 0, "running", False),
    ],
    ids=["alive on another host", "lost", "done", "no lock on this host"],
)
def test_a_run_of_an_old_version_is_held_by_its_heartbeat(
    run: Run, tmp_path: Path, host: str, beat: float, state: str, held: bool
) -> None:
    write_json(run.path / "status.json", {"state": state, "host": host, "pid": 4711, "heartbeat": time.time() - beat})
    if held:
        with pytest.raises(Busy, match=f"held by process 4711 on {host}"):
            trash.remove(run, tmp_path / "runs")
    else:
        trash.remove(run, tmp_path / "runs")


def test_pinned_runs_stay(run: Run, tmp_path: Path) -> None:
    pins.pin(run)
    with pytest.raises(UsageError) as caught:
        trash.remove(run, tmp_path / "runs")
    assert str(caught.value).splitlines() == [
        "error: run parent has pinned checkpoints and is not removed: step 10",
        "  hint: tune runs pin parent --remove lets go of them",
    ]
    pins.unpin(run)
    trash.remove(run, tmp_path / "runs")


def test_the_trash_is_no_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / ".trash").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        trash.remove(run, tmp_path / "runs")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("linked", "linked is a link to another folder"),
        ("{tmp}/other", "leads out of"),
        ("../other", "leads out of"),
        ("runs/../other", "leads out of"),
        ("..", "leads out of"),
        (".", "leads out of"),
        ("", "leads out of"),
        ("{tmp}/runs", "leads out of"),
        ("runs/parent/../../other", "leads out of"),
        ("runs/parent/checkpoints", "leads out of"),
        ("{tmp}/runs/linked", "linked is a link to another folder"),
        ("runs/.trash", "no run 'runs/.trash' in"),
        ("runs/nothing", "no run 'runs/nothing' in"),
    ],
)
def test_names_cannot_leave_the_root(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "plan.json").write_text("{}")
    (tmp_path / "runs" / "linked").symlink_to(other)
    (tmp_path / "runs" / ".trash").mkdir()
    with pytest.raises(UsageError, match=what):
        find_own(name.format(tmp=tmp_path), tmp_path / "runs")


@pytest.mark.parametrize("name", ["parent", "par", "latest", "runs/parent", "{tmp}/runs/parent"])
def test_names_of_runs_in_the_root(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(tmp_path / "runs", tmp_path / "by-link")
    for root in ("runs", "by-link"):
        assert find_own(name.format(tmp=tmp_path), tmp_path / root).path == tmp_path / root / "parent"
