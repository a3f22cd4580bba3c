"""`tune runs sync`: sends what was missed, once, and loses nothing when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from nothing_tune.artifacts import Run, append_event, write_json
from nothing_tune.cli.runs.sync import sync
from nothing_tune.engine.delivery import _alone
from nothing_tune.errors import Busy, RunError, UsageError
from tests.trackers.wandb_server import KEY, Server, serving

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs, which the command takes for its own."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("TUNE_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield found


def make(root: Path, name: str, tracker: str, steps: int = 3) -> Run:
    """A run that trained `steps` steps without its tracker."""
    run = Run(root / name)
    run.path.mkdir(parents=True)
    plan = {"version": 1, "tracking": {"tracker": tracker, "project": "p"}, "values": {"name": name}}
    write_json(run.path / "plan.json", plan)
    for step in range(1, steps + 1):
        log(run, step)
    return run


def log(run: Run, step: int) -> None:
    event = {"time": 1.0, "attempt": 1, "type": "log", "step": step, "metrics": {"loss": float(step)}}
    append_event(run.path / "events.jsonl", event)


def test_it_sends_once_and_says_how_much(root: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(root, "run-0001", "wandb")
    write_json(run.path / "result.json", {"state": "done", "step": 3, "metrics": {"train_loss": 2.0}})
    sync(["run-0001"])
    sync(["latest"])
    log(run, 4)
    sync(["run-0001"])
    assert capsys.readouterr().out.splitlines() == [
        "run-0001: 3 events sent to wandb",
        "run-0001: wandb has everything",
        "run-0001: 1 event sent to wandb",
    ]
    assert server.points("run-0001", "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert server.summaries["run-0001"]["result/train_loss"] == 2.0
    assert server.configs["run-0001"]["name"] == {"value": "run-0001"}


def test_all_passes_over_runs_without_a_tracker_and_runs_in_use(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "run-0001", "tensorboard")
    make(root, "run-0002", "none")
    held = make(root, "run-0003", "tensorboard")
    (make(root, "run-0004", "tensorboard").path / "plan.json").write_text("{")
    with _alone(held, 0.0):
        sync(all_=True)
        said = capsys.readouterr()
        assert said.out == "run-0001: 3 events sent to tensorboard\n"
        assert said.err == "run-0003: left out, its engine is sending it\n"
        with pytest.raises(Busy):
            sync(["run-0003"])
    sync(all_=True, json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"run": "run-0001", "tracker": "tensorboard", "events": 0},
        {"run": "run-0003", "tracker": "tensorboard", "events": 3},
    ]


def test_another_tracker_may_be_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "run-0001", "none")
    with pytest.raises(UsageError) as caught:
        sync(["run-0001"])
    assert caught.value.problems[0].lines() == ["error: run run-0001 has no tracker", "  hint: add --tracker NAME"]
    sync(["run-0001"], tracker="tensorboard")
    assert capsys.readouterr().out == "run-0001: 3 events sent to tensorboard\n"
    with pytest.raises(UsageError, match="there is no tracker 'mlflow'"):
        sync(["run-0001"], tracker="mlflow")


@pytest.mark.parametrize(("ids", "all_"), [(None, False), (["run-0001"], True)])
def test_runs_are_named_or_all_of_them(ids: Any, all_: bool, root: Path) -> None:
    with pytest.raises(UsageError, match="--all"):
        sync(ids, all_=all_)


def test_a_tracker_that_cannot_be_reached_is_told_and_nothing_is_lost(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(root, "run-0001", "wandb")
    with pytest.raises(RunError) as caught:
        sync(["run-0001"])
    assert caught.value.problems[0].lines() == [
        "error: tracking.tracker is wandb, but there is no key for it",
        "  hint: run `wandb login`, or set WANDB_API_KEY",
    ]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(RunError) as caught:
        sync(["run-0001"])
    assert caught.value.exit_code == 5
    assert caught.value.problems[0].lines() == [
        "error: the tracker wandb cannot be reached: 127.0.0.1:9 does not answer ([Errno 111] Connection refused)",
        "  hint: nothing is lost: it can be sent later",
    ]
    assert not (run.path / "tracking" / "delivered.json").exists()
    sync(["run-0001"], tracker="tensorboard")
    assert capsys.readouterr().out == "run-0001: 3 events sent to tensorboard\n"


def test_all_goes_on_after_a_failure_and_says_whose_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "run-0001", "wandb")
    make(root, "run-0002", "tensorboard")
    with pytest.raises(typer.Exit) as caught:
        sync(all_=True)
    assert caught.value.exit_code == 5
    said = capsys.readouterr()
    assert said.out == "run-0002: 3 events sent to tensorboard\n"
    assert said.err == (
        "error: run-0001: tracking.tracker is wandb, but there is no key for it\n"
        "  hint: run `wandb login`, or set WANDB_API_KEY\n"
    )
    with pytest.raises(typer.Exit):
        sync(all_=True, json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert [p["what"] for p in first["errors"]] == ["run-0001: tracking.tracker is wandb, but there is no key for it"]
    assert second == {"run": "run-0002", "tracker": "tensorboard", "events": 0}


def test_it_imports_no_torch(root: Path) -> None:
    make(root, "run-0001", "tensorboard")
    code = (
        "import sys; from nothing_tune.cli.runs.sync import sync; sync(['run-0001'])\n"
        "print([m for m in ('torch', 'transformers', 'tensorflow', 'omegaconf', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["run-0001: 3 events sent to tensorboard", "[]"]
