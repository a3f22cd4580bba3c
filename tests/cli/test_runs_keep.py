"""`tune runs verify`, `pin`, `rm` and `fork` as they are typed: what they print, their exit codes, what the shell completes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nothing_tune import run as runs
from nothing_tune.artifacts import Run, checkpoint
from nothing_tune.cli import console
from nothing_tune.cli.runs import fork, pin, rm
from tests.run.support import flip, prepared, save

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = prepared(tmp_path, "nightly")
    save(made, 10), save(made, 20)
    return made


def test_verify(tune: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    said = tune("runs", "verify", "nightly")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("nightly: ok, 2 checkpoints, ")
    assert said.out.endswith(" read again; tune resume would go on at checkpoint-20\n")
    prepared(tmp_path, "weekly")
    flip(run.checkpoints / "checkpoint-20" / "optimizer.pt")
    (run.checkpoints / "torn-5-a1").mkdir()
    said = tune("runs", "verify", "--all")
    assert said.code == 74
    lines = said.out.splitlines()
    assert sorted(lines) == [
        "  torn-5-a1 was set aside",
        "nightly: damaged, checkpoint-20: optimizer.pt is not what was written; tune resume would go on at checkpoint-10",
        "weekly: ok, 0 checkpoints, 0 B read again; tune resume would start anew",
    ]
    said = tune("runs", "verify", "nightly", "--json")
    assert said.code == 74
    assert said.json()[0]["checkpoints"] == [
        {"step": 10, "fault": None},
        {"step": 20, "fault": "optimizer.pt is not what was written"},
    ]


def test_verify_wants_runs(tune: Callable[..., Any], run: Run) -> None:
    assert tune("runs", "verify").err == (
        "error: which runs? none is named\n  hint: tune runs verify latest, or tune runs verify --all\n"
    )
    assert tune("runs", "verify", "nightly", "--all").code == 2


def test_pin(tune: Callable[..., Any], run: Run) -> None:
    assert tune("runs", "pin", "nightly").out == "nightly: pinned checkpoint-20; pinned now: checkpoint-20\n"
    assert tune("runs", "pin", "nightly").out == "nightly: it is pinned already; pinned now: checkpoint-20\n"
    assert tune("runs", "pin", "nightly", "--checkpoint", "10", "--json").json() == {
        "run": "nightly",
        "pinned": [10, 20],
    }
    assert tune("runs", "pin", "nightly", "--checkpoint", "15").err == (
        "error: run nightly has no checkpoint of step 15\n  hint: it has checkpoints of the steps 10, 20\n"
    )
    assert checkpoint.pinned(run.path) == [10, 20]
    said = tune("runs", "pin", "nightly", "--remove", "--checkpoint", "10").out
    assert said == "nightly: let go of checkpoint-10; pinned now: checkpoint-20\n"
    assert tune("runs", "pin", "nightly", "--remove").out == "nightly: let go of checkpoint-20; pinned now: none\n"
    assert tune("runs", "pin", "nightly", "--remove").out == "nightly: nothing was pinned; pinned now: none\n"


def test_rm_and_restore(tune: Callable[..., Any], run: Run) -> None:
    said = tune("runs", "rm", "nightly")
    size = said.out.split(", ")[1].split(";")[0]
    assert said.out == f"moved nightly to the trash, {size}; give it back with: tune runs rm --restore nightly\n"
    assert tune("runs").out.startswith("there is no run in ")
    assert (
        tune("runs", "rm", "--restore", "nightly").out == "gave back nightly; tune runs show nightly tells about it\n"
    )
    assert tune("runs", "verify", "nightly").code == 0
    tune("runs", "rm", "nightly")
    assert tune("runs", "show", "nightly").err == (
        f"error: no run 'nightly' in {run.path.parent}\n"
        "  hint: it is in the trash: tune runs rm --restore nightly brings it back\n"
    )
    tune("runs", "rm", "--restore", "nightly")
    moved = tune("runs", "rm", "nightly", "--runs-dir", "runs", "--json").json()["trashed"]
    assert [entry["run"] for entry in moved] == ["nightly"]
    assert tune("runs", "rm", "--restore", "nightly", "--json").json()["restored"] == "nightly"
    assert "--restore nightly --runs-dir runs\n" in tune("runs", "rm", "nightly", "--runs-dir", "runs").out


def test_empty(tune: Callable[..., Any], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune("runs", "rm", "--empty").out == "the trash is empty\n"
    tune("runs", "rm", "nightly")
    said = tune("runs", "rm", "--empty")
    assert said.code == 2
    assert said.out.splitlines()[1].startswith("nightly      0 s  ")
    assert said.err.endswith("is not emptied without being asked: 1 would go for good\n  hint: add --yes\n")
    monkeypatch.setattr(console, "is_terminal", lambda *_: True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(console, "ask", lambda question: "for good? [y/N]" not in question)
    assert tune("runs", "rm", "--empty").out.endswith("nothing was deleted\n")
    tune("runs", "rm", "--restore", "nightly")
    tune("runs", "rm", "nightly")
    monkeypatch.setattr(console, "ask", lambda question: question.startswith("delete 1, "))
    assert "deleted 1, " in tune("runs", "rm", "--empty").out
    assert list((run.path.parent / ".trash").iterdir()) == []
    assert tune("runs", "rm", "--empty", "--yes", "--json").json() == {"deleted": []}


def test_rm_refuses(tune: Callable[..., Any], run: Run) -> None:
    tune("runs", "pin", "nightly")
    said = tune("runs", "rm", "nightly")
    assert (said.code, said.err.splitlines()[0]) == (
        2,
        "error: run nightly has pinned checkpoints and is not removed: step 20",
    )
    tune("runs", "pin", "nightly", "--remove")
    (run.path / "run.lock").write_text('{"pid": 4711, "host": "here"}')
    with open(run.path / "run.lock", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert tune("runs", "rm", "nightly").code == 77
    assert tune("runs", "rm", "../runs/../elsewhere").code == 2
    for words in ((), ("nightly", "--empty"), ("--empty", "--restore", "nightly")):
        assert tune("runs", "rm", *words).err.startswith("error: give runs to remove, or --restore RUN_ID, or --empty")
    assert run.path.is_dir()


def test_several_are_looked_up_before_one_is_moved(tune: Callable[..., Any], run: Run) -> None:
    assert tune("runs", "rm", "nightly", "nowhere").code == 2
    assert run.path.is_dir()


def test_fork_without_starting(tune: Callable[..., Any], run: Run) -> None:
    said = tune("runs", "fork", "nightly", "training.learning_rate=1e-5", "--name", "gentle", "--no-start")
    assert said.code == 0
    assert said.out == (
        "gentle is a fork of nightly at step 20: it goes on from there with the same optimizer state and position in the data\n"
        "start it with: tune resume gentle\n"
    )
    said = tune(
        "runs", "fork", "nightly", "--restart", "--from", "10", "--name", "again", "--no-start", "--json"
    ).json()
    assert said["parent"] == {"run": "nightly", "step": 10, "mode": "restart", "changed": {}}
    assert "  parent     nightly at step 20, goes on from there: " in tune("runs", "show", "gentle").out
    assert "stopped at step 20; continue with: tune resume gentle\n" in tune("runs", "show", "gentle").out
    assert tune("runs", "verify", "--all").code == 0


def test_fork_starts(tune: Callable[..., Any], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Run] = []
    monkeypatch.setattr(runs, "start", seen.append)
    said = tune("runs", "fork", "nightly", "--name", "gentle", "--detach")
    assert said.out.splitlines()[-1] == "started gentle; look with: tune watch gentle"
    assert [r.id for r in seen] == ["gentle"]


def test_fork_refuses(tune: Callable[..., Any], run: Run) -> None:
    said = tune("runs", "fork", "nightly", "peft.r=4", "--no-start")
    assert said.code == 65
    assert said.err == (
        "error: peft.r was 16 and would be 4: the weights of a checkpoint do not fit that\n"
        "  hint: start a new run: tune train runs/nightly/recipe.yaml KEY=VALUE\n"
    )
    said = tune("runs", "fork", "nightly", "weekly")
    assert said.err == "error: 'weekly' is no override\n  hint: an override is written KEY=VALUE, without spaces\n"


def test_completion(tune: Callable[..., Any], run: Run) -> None:
    words: Any = SimpleNamespace(params={"run_id": "nightly", "runs_dir": "runs"})
    assert pin.complete_steps(words, "") == ["10", "20"]
    assert pin.complete_steps(words, "2") == ["20"]
    assert fork.complete_starts(words, "b") == ["best"]
    words.params["run_id"] = "nowhere"
    assert pin.complete_steps(words, "") == []
    tune("runs", "rm", "nightly")
    assert rm.complete_trash("n") == ["nightly"]
    assert rm.complete_trash("x") == []


@pytest.mark.parametrize("command", ["show", "verify", "fork", "pin", "rm", "sync"])
def test_help(tune: Callable[..., Any], command: str) -> None:
    page = tune("runs", command, "--help")
    assert page.code == 0
    lines = page.out.splitlines()
    assert lines[0].startswith(f"Usage: tune runs {command} ")
    assert max(map(len, lines)) <= 100
    for head in ("Options:", "Examples:", "Exit codes:"):
        assert head in lines
