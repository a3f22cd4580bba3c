"""The supervisor: light, holds the lock, and tells the truth about a worker that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run, append_event, checkpoint, write_json
from nothing_tune.engine import __main__ as supervisor
from nothing_tune.engine import chat
from tests.engine.support import MakeRun, losses

ROOT = Path(__file__).parents[2]


def test_its_import_stays_light() -> None:
    code = "import sys, nothing_tune.engine.__main__; print([x for x in ('torch', 'transformers', 'datasets') if x in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def start(run: Run) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nothing_tune.engine", str(run.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_second_one_is_told_who_holds_the_run(make_run: MakeRun) -> None:
    run = make_run()
    descriptor = supervisor.hold(run)
    second = start(run)
    os.close(descriptor)
    assert second.returncode == 77
    assert f"run {run.id} is held by process {os.getpid()} on " in second.stderr
    assert run.result() is None
    assert not (run.path / "status.json").exists()


def test_no_run_directory_is_a_usage_error(tmp_path: Path) -> None:
    result = start(Run(tmp_path))
    assert result.returncode == 2
    assert "is not a run directory" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "signals", "state", "exit_code", "words"),
    [
        (-9, [], "failed", 5, "killed by signal 9 (SIGKILL)"),
        (-11, [], "failed", 5, "killed by signal 11 (SIGSEGV)"),
        (3, [], "failed", 5, "ended with code 3"),
        (-9, [signal.SIGINT, signal.SIGINT], "stopped", 130, "second signal"),
        (-9, [signal.SIGTERM, signal.SIGTERM], "failed", 5, "second signal"),
    ],
)
def test_the_truth_about_a_worker_that_died(
    make_run: MakeRun, code: int, signals: list[int], state: str, exit_code: int, words: str
) -> None:
    run = make_run()
    write_json(run.path / "status.json", {"step": 7, "epoch": 0.5})
    result = supervisor.died(code, 1, signals, run)
    assert (result["state"], result["exit_code"], result["step"]) == (state, exit_code, 7)
    problem = result["error"]["problems"][0]
    assert words in problem["what"]
    assert "tune resume" in problem["hint"]


def test_missing_data_is_reported_with_the_cure(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(**{"data.train": str(tmp_path / "none.jsonl")})
    assert start(run).returncode == 2
    result = run.result()
    assert result is not None
    assert result["state"] == "failed"
    problem = result["error"]["problems"][0]
    assert str(tmp_path / "none.jsonl") in problem["what"]
    assert "--with models/nano" in problem["hint"]
    assert "traceback" not in result["error"]
    append_event(run.path / "events.jsonl", {"type": "x"})
    assert [e["state"] for e, _ in run.events() if e["type"] == "state"] == ["failed"]


def test_chat_says_that_there_is_nothing_to_talk_to(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    out = io.StringIO()
    assert chat.main(make_run().path, lines=io.StringIO(), out=out) == 2
    assert '"type": "error"' in out.getvalue()
    assert "tune resume" in out.getvalue()


def test_a_worker_does_not_train_on_when_its_supervisor_dies(make_run: MakeRun) -> None:
    run = make_run(**{"training.max_steps": 5000, "training.eval_strategy": "no", "training.save_steps": 5000})
    with open(run.path / "engine.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine", str(run.path)], cwd=ROOT, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 120
    while not losses(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while run.result() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    result = run.result()
    assert result is not None
    assert result["state"] == "preempted"
    assert checkpoint.fault(run.checkpoints / f"checkpoint-{result['step']}") is None
