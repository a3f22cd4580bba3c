"""What a recipe's export section asks for is done when the training is: once, kept in the run, and never at its expense."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, write_json
from nothing_tune.engine.__main__ import main
from tests.engine import exports

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("after")
    return exports.trained("lora", exports.model("qwen2", folder / "base"), folder / "runs", "one")


def wants(run: Run, **section: Any) -> None:
    plan = run.plan()
    write_json(run.path / "plan.json", {**plan, "values": {**plan["values"], "export": section}})


def told(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "exports" / "events.jsonl").read_text("utf-8").splitlines()]


def test_it_is_done_once_and_again_when_more_is_wanted(trained: Run) -> None:
    assert main([str(trained.path)]) == 0
    assert not (trained.path / "exports").exists()
    wants(trained, merge=True)
    assert main([str(trained.path)]) == 0
    events = told(trained)
    assert [(e["output"], e["there"]) for e in events if e["type"] == "output"] == [
        ("adapter", False),
        ("merged", False),
    ]
    assert events[-1] == {"type": "end", "exit_code": 0}
    written = (trained.path / "exports" / "events.jsonl").stat().st_mtime_ns
    assert main([str(trained.path)]) == 0
    assert (trained.path / "exports" / "events.jsonl").stat().st_mtime_ns == written
    wants(trained, merge=True, vllm=True)
    assert main([str(trained.path)]) == 0
    assert [(e["output"], e["there"]) for e in told(trained) if e["type"] == "output"] == [
        ("adapter", True),
        ("merged", True),
    ]
    assert (trained.path / "exports" / "step-6" / "vllm" / "merged.yaml").is_file()


def test_a_failed_export_leaves_the_run_done(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "two", ignore=shutil.ignore_patterns("exports"))
    run = Run(tmp_path / "two")
    plan = run.plan()
    plan["model"]["name_or_path"] = str(tmp_path / "gone")
    write_json(run.path / "plan.json", plan)
    wants(run, merge=True)
    assert main([str(run.path)]) == 2
    assert str(tmp_path / "gone") in next(e for e in told(run) if e["type"] == "error")["what"]
    assert json.loads((run.path / "exports" / "result.json").read_text("utf-8"))["exit_code"] == 2
    assert run.state() == "done"
    assert (run.result() or {})["exit_code"] == 0


def test_it_ends_with_the_engine(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "three", ignore=shutil.ignore_patterns("exports"))
    run = Run(tmp_path / "three")
    wants(run, merge=True)
    engine = subprocess.Popen([sys.executable, "-m", "nothing_tune.engine", str(run.path)])
    events, deadline = run.path / "exports" / "events.jsonl", time.monotonic() + 120
    while not events.is_file() or "source" not in events.read_text("utf-8"):
        assert time.monotonic() < deadline
        assert engine.poll() is None
        time.sleep(0.05)
    engine.send_signal(signal.SIGTERM)
    assert engine.wait(30) == 130
    assert told(run)[-1] == {"type": "end", "exit_code": 130}
    assert main([str(run.path)]) == 0
    assert run.state() == "done"
