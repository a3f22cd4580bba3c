"""Run directories: found by id, prefix or `latest`; written whole or not at all; read while they are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nothing_tune import artifacts
from nothing_tune.artifacts import (
    Run,
    append_event,
    attempts,
    create_run,
    find_run,
    new_run_id,
    read_json,
    run_ids,
    write_json,
)
from nothing_tune.errors import StorageError, UsageError

IDS = ["20261101-120000-marco-t4-aaaa", "20261102-120000-marco-l4-bbbb", "20261102-130000-quickstart-cpu-cccc"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for run_id in IDS:
        create_run(tmp_path, run_id)
    return tmp_path


def test_ids_name_date_recipe_and_gpu() -> None:
    made = new_run_id("templates/Quick Start", "a100-40gb", datetime(2026, 11, 20, 21, 45, tzinfo=UTC))
    assert made.rpartition("-")[0] == "20261120-214500-templates-quick-start-a100-40gb"
    assert artifacts.RUN_ID.match(made)


@pytest.mark.parametrize(
    ("name", "found"), [("latest", 2), (IDS[0], 0), ("20261101", 0), ("20261102-13", 2), ("20261102-120000-m", 1)]
)
def test_a_run_is_named_by_id_prefix_or_latest(root: Path, name: str, found: int) -> None:
    assert find_run(name, root).id == IDS[found]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("20261102", [f"error: '20261102' names 2 runs: {IDS[1]}, {IDS[2]}", "  hint: give more of the id"]),
        ("20261101-120000-marco-t4-aaab", [f"  hint: nearest: {IDS[0]}, {IDS[1]}, {IDS[2]}"]),
    ],
)
def test_a_name_that_is_none_names_near_ids(root: Path, name: str, lines: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        find_run(name, root)
    assert str(caught.value).splitlines()[-len(lines) :] == lines


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run in"):
        find_run("latest", tmp_path / "none")
    assert run_ids(tmp_path / "none") == []


@pytest.mark.parametrize(
    "bad", ["../outside", "a/b", "UPPER-case", ".hidden", "..", "-dash", "a", "x" * 129, "sp ace-run"]
)
def test_ids_cannot_leave_the_root(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UsageError) as caught:
        create_run(tmp_path, bad)
    assert caught.value.problems[0].lines() == [
        f"error: {bad!r} cannot be a run's name",
        "  hint: use 2 to 128 lower-case letters, digits, dots, dashes, underscores; a letter or digit first",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["v1", "my_run", "3.1-b", "x" * 128])
def test_short_names_and_underscores(tmp_path: Path, name: str) -> None:
    assert create_run(tmp_path, name).id == name
    assert run_ids(tmp_path) == [name]


@pytest.mark.parametrize("others", [[], ["weekly"]])
def test_a_run_in_the_trash_is_named(tmp_path: Path, others: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in others:
        create_run(tmp_path, name)
    (tmp_path / artifacts.runs.TRASH / "whole.1795209900").mkdir(parents=True)
    for root, option in ((tmp_path, ""), (tmp_path / "elsewhere", f" --runs-dir {tmp_path}")):
        monkeypatch.setenv("TUNE_RUNS_DIR", str(root))
        with pytest.raises(UsageError) as caught:
            find_run("whole", tmp_path)
        assert caught.value.problems[0].lines() == [
            f"error: no run 'whole' in {tmp_path}",
            f"  hint: it is in the trash: tune runs rm --restore whole{option} brings it back",
        ]
    with pytest.raises(UsageError) as caught:
        find_run("who1e", tmp_path)
    assert "in the trash" not in caught.value.problems[0].hint


def test_a_taken_name_and_a_root_that_is_a_file(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists in"):
        create_run(root, IDS[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make a run in"):
        create_run(tmp_path / "file", IDS[0])


def test_events_skip_a_torn_last_line_and_go_on_from_an_offset(root: Path) -> None:
    run, path = Run(root / IDS[0]), root / IDS[0] / "events.jsonl"
    append_event(path, {"type": "log", "metrics": {"loss": float("nan")}})
    append_event(path, {"type": "state", "state": "running"})
    with path.open("a") as handle:
        handle.write('{"type": "torn')
    events = list(run.events())
    assert [e["type"] for e, _ in events] == ["log", "state"]
    assert events[0][0]["metrics"] == {"loss": None}
    with path.open("a") as handle:
        handle.write('"}\n')
    assert [e["type"] for e, _ in run.events(events[-1][1])] == ["torn"]


def test_whole_files_are_replaced_and_leave_nothing_behind(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("inf"), "y": [1, 2.5]})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [1, 2.5]}
    with pytest.raises(StorageError, match="cannot write"):
        write_json(tmp_path / "missing" / "a.json", {})
    assert os.listdir(tmp_path) == ["a.json"]
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        read_json(tmp_path / "a.json")


def test_a_silent_run_is_lost(root: Path) -> None:
    run = Run(root / IDS[0])
    (run.path / "status.json").write_text(json.dumps({"state": "running", "heartbeat": time.time()}))
    assert run.state() == "running"
    assert run.state(now=time.time() + artifacts.LOST_AFTER_S + 1) == "lost"
    (run.path / "status.json").write_text(json.dumps({"state": "done", "heartbeat": 0}))
    assert run.state() == "done"


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_that_is_gone_though_nobody_waited_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert artifacts.runs.is_gone(process.pid)
    process.wait()
    assert artifacts.runs.is_gone(process.pid)
    assert not artifacts.runs.is_gone(os.getpid())
    assert not artifacts.runs.is_gone(None)
    assert not artifacts.runs.is_gone(10**30)


@pytest.mark.parametrize(
    ("pid", "worker", "lease", "state"),
    [
        ("gone", "gone", {}, "lost"),
        ("alive", "gone", {}, "running"),
        ("gone", "alive", {}, "running"),
        ("gone", None, {}, "running"),
        ("gone", -1, {}, "running"),
        ("gone", "gone", {"host": "elsewhere"}, "running"),
        ("gone", "gone", {"boot": "another"}, "running"),
        ("gone", "gone", None, "running"),
    ],
)
def test_a_run_whose_processes_are_gone_is_lost_at_once(
    root: Path, pid: object, worker: object, lease: dict[str, str] | None, state: str
) -> None:
    run = Run(root / IDS[0])
    pids = {"gone": gone(), "alive": os.getpid()}
    here = attempts.place()
    write_json(
        run.path / "status.json",
        {
            "state": "running",
            "heartbeat": time.time(),
            "attempt": 2,
            "host": here["host"],
            "pid": pids.get(str(pid), pid),
            "worker": pids.get(str(worker), worker),
        },
    )
    if lease is not None:
        (run.path / "attempts").mkdir()
        write_json(run.path / "attempts" / "0002.json", {"attempt": 2, **here, **lease})
    assert run.state() == state


def test_a_run_that_ends_while_one_looks_is_not_lost(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(root / IDS[0])
    write_json(run.path / "status.json", {"state": "running", "heartbeat": time.time()})

    def end(run: Run, status: object) -> bool:
        write_json(run.path / "status.json", {"state": "done"})
        return True

    monkeypatch.setattr(Run, "_is_left", end)
    assert run.state() == "done"


def test_the_last_event_of_a_kind_is_found_from_the_end(root: Path) -> None:
    run, path = Run(root / IDS[0]), root / IDS[0] / "events.jsonl"
    assert run.last_event("eval") is None
    append_event(path, {"type": "eval", "n": 1})
    append_event(path, {"type": "eval", "n": 2})
    for number in range(3000):
        append_event(path, {"type": "log", "what": f"not an eval {number}", "filler": "x" * 40})
    append_event(path, {"type": "log", "what": "eval"})
    with path.open("a") as handle:
        handle.write('{"type": "eval", "n": 3')
    found = run.last_event("eval")
    assert found is not None
    assert found["n"] == 2
    assert run.last_event("none") is None
    first = next(iter(run.events()))[0]
    assert first == {"type": "eval", "n": 1}
