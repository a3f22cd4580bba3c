"""`tune train`, `resume` and `stop`, with an engine that does as the test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import run as runs
from nothing_tune.artifacts import Run, write_json

RECIPE = """\
layers: [base/qlora, methods/qlora, models/nano]
name: tiny
data: {train: rows.jsonl, eval: null}
training: {eval_strategy: "no", load_best_model_at_end: false}
"""
ENGINE = """
import json, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
event = {"time": time.time(), "attempt": 1, "type": "log", "step": 1, "metrics": {"loss": 2.0}}
status = {"state": "running", "step": 1, "total_steps": 1, "attempt": 1, "heartbeat": time.time()}
(path / "status.json").write_text(json.dumps(status))
with open(path / "events.jsonl", "a") as handle:
    handle.write(json.dumps(event) + "\\n")
result = {"state": "done", "exit_code": 0, "step": 1, "metrics": {"last_loss": 2.0}, "adapter": "adapter"}
(path / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Run]]:
    """Runs that the engine was started on."""
    seen: list[Run] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start(run: Run) -> subprocess.Popen[bytes]:
        seen.append(run)
        processes.append(subprocess.Popen([sys.executable, "-c", ENGINE, str(run.path)]))
        return processes[-1]

    monkeypatch.setattr(runs, "start", start)
    yield seen
    for process in processes:
        process.wait(10)


def test_dry_run(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "t4", "--dry-run", "--max-steps", "7", "--max-samples", "3")
    assert said.code == 0
    lines = dict(line.strip().split("  ", 1) for line in said.out.splitlines()[1:])
    assert said.out.splitlines()[0] == "tiny  dry run: nothing was made"
    assert {k: v.strip() for k, v in lines.items()}["data"] == "rows.jsonl, at most 3 rows"
    assert lines["precision"] == "fp16: t4 has no bfloat16"
    assert lines["length"].strip().startswith("7 steps")
    assert lines["layers"].strip().endswith("tiny.yaml · command line")
    assert started == []
    assert sorted(os.listdir()) == ["rows.jsonl", "tiny.yaml"]
    plan = tune("train", "tiny.yaml", "--gpu", "t4", "--dry-run", "--json").json()["plan"]
    assert plan["training"]["fp16"] is True


def test_train(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "cpu")
    (run,) = started
    assert said.code == 0
    assert said.out.startswith(f"tiny  {run.id}\n  model ")
    assert "\nstep 1/1  loss 2.000\n" in said.out
    assert said.out.endswith(f"  next    tune chat {run.id}\n          tune runs show {run.id}\n")
    assert (run.path / "recipe.yaml").is_file()


def test_json(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "cpu", "--json")
    assert said.json()["run"] == started[0].id
    assert said.json()["metrics"] == {"last_loss": 2.0}
    assert said.err == ""


def test_detach(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "cpu", "--detach", "--name", "nightly")
    assert said.out == "started nightly; look with: tune watch nightly\n"
    assert started[0].id == "nightly"


def test_continue(tune: Callable[..., Any], started: list[Run]) -> None:
    words = ("train", "tiny.yaml", "--gpu", "cpu", "--name", "nightly")
    assert tune(*words).code == 0
    write_json(started[0].path / "status.json", {"state": "done"})
    again = tune(*words)
    assert again.code == 2
    assert "a run named nightly exists" in again.err
    done = tune(*words, "--continue")
    assert (done.code, done.err) == (0, "run nightly is done already\n")
    assert len(started) == 1
    changed = tune(*words, "--continue", "training.learning_rate=1")
    assert changed.code in (2, 65)


def test_compose(tune: Callable[..., Any], started: list[Run]) -> None:
    from nothing_tune.recipe.library import library_root

    model = str(library_root() / "models" / "nano")
    said = tune("train", "--model", model, "--data", "rows.jsonl", "--method", "lora", "--gpu", "cpu")
    assert said.code == 0
    assert said.err == f"composed a recipe from methods/lora for {model}; the run keeps it as recipe.yaml\n"
    recipe = (started[0].path / "recipe.yaml").read_text()
    assert f"name_or_path: {model}" in recipe
    assert tune("validate", str(started[0].path / "recipe.yaml")).code == 0


def test_missing_data(tune: Callable[..., Any], started: list[Run]) -> None:
    os.remove("rows.jsonl")
    said = tune("train", "tiny.yaml", "--gpu", "cpu")
    assert (said.code, started) == (2, [])
    assert "rows.jsonl" in said.err
    assert "where: tiny.yaml:3:" in said.err
    assert os.listdir() == ["tiny.yaml"]


def test_resume_newest_unfinished(tune: Callable[..., Any], demo: Any, started: list[Run]) -> None:
    demo.status("stopped", step=3, total_steps=20)
    finished = demo.run.path.with_name("20261121-000000-other-l4-0000")
    finished.mkdir()
    write_json(finished / "status.json", {"state": "done"})
    said = tune("resume")
    assert said.err == f"resuming {demo.run.id}, the newest run that is not done\n"
    assert (said.code, [r.id for r in started]) == (0, [demo.run.id])


def test_resume_done(tune: Callable[..., Any], demo: Any, started: list[Run]) -> None:
    demo.result(step=20)
    said = tune("resume", "latest")
    assert (said.code, started) == (2, [])
    assert said.err.startswith(f"error: run {demo.run.id} is done: there is nothing to resume\n")


def test_stop_what_does_not_run(tune: Callable[..., Any], demo: Any) -> None:
    demo.status("running", step=3)
    assert tune("stop", "latest").err == (
        f"error: run {demo.run.id} is held by no engine on this machine\n  hint: it was started on elsewhere: stop it there\n"
    )
    demo.result("stopped", 130, step=3)
    assert tune("stop", "latest").err == (
        f"error: run {demo.run.id} is not running: it is stopped\n  hint: tune runs show {demo.run.id} tells more\n"
    )


def test_stop(tune: Callable[..., Any], demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.status("running", step=3)
    monkeypatch.setattr(runs, "alive", lambda run: True)

    def stop(run: Run, grace: float) -> str:
        demo.result("stopped", 130, step=4)
        return "stopped"

    monkeypatch.setattr(runs, "stop", stop)
    assert tune("stop", "latest").out == f"stopped at step 4; continue with: tune resume {demo.run.id}\n"
    assert json.loads(tune("stop", "latest", "--json").out) == {"run": demo.run.id, "state": "stopped", "step": 4}
    monkeypatch.setattr(runs, "stop", lambda run, grace: "running")
    slow = tune("stop", "latest", "--grace", "1")
    assert slow.code == 5
    assert "has not stopped within 1 s" in slow.err
