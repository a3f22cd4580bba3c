"""`tune runs`: the table, one run in full, thousands of runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import artifacts

ID = "20261120-214500-demo-l4-9f3a"


def fill(root: Path, count: int) -> None:
    """`count` finished runs, a second apart."""
    for index in range(count):
        path = root / f"20260101-{index // 3600:02d}{index // 60 % 60:02d}{index % 60:02d}-demo-l4-{index:04x}"
        path.mkdir(parents=True)
        status = {"state": "done", "step": 20, "total_steps": 20, "recipe": "demo", "gpu": "l4", "eval_loss": 0.5}
        (path / "status.json").write_text(json.dumps({**status, "created": time.time() - 7200}))


def test_none(tune: Callable[..., Any]) -> None:
    result = tune("runs")
    assert result.code == 0
    assert result.out == f"there is no run in {os.getcwd()}/runs; tune train quickstart makes one\n"


def test_table(tune: Callable[..., Any], demo: Any, tmp_path: Path) -> None:
    fill(tmp_path / "runs", 2)
    demo.status("running", step=7, total_steps=20, eval_loss=1.23456, created=time.time() - 185)
    (tmp_path / "runs" / "by-hand").mkdir()
    (tmp_path / "runs" / "by-hand" / "status.json").write_text("{torn")
    os.utime(tmp_path / "runs" / "by-hand", (0, 0))
    lines = tune("runs").out.splitlines()
    assert lines[0] == "id                            recipe  gpu  state     step  eval loss    age"
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows[ID] == f"{ID}  demo    l4   running   7/20      1.235  3 min"
    assert rows["20260101-000001-demo-l4-0001"].endswith("demo    l4   done     20/20      0.500    2 h")
    assert "damaged" in rows["by-hand"]
    assert tune("runs", "--limit", "1").out.splitlines()[-1] == "3 older; --all shows them"


def test_lost(tune: Callable[..., Any], demo: Any) -> None:
    demo.status("running", step=3, total_steps=20, heartbeat=time.time() - 3600)
    assert tune("runs", "--json").json()[0]["state"] == "lost"


@pytest.mark.engine  # takes a second
def test_thousands(tune: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "runs", 3000)
    read: list[Path] = []
    monkeypatch.setattr(artifacts.runs, "read_json", lambda path: read.append(path) or json.loads(path.read_text()))
    result = tune("runs")
    lines = result.out.splitlines()
    assert len(lines) == 22
    assert lines[1].startswith("20260101-004959-demo-l4-0bb7 ")
    assert lines[-1] == "2980 older; --all shows them"
    assert len(read) == 40  # two files each of the runs that are shown, none of the others
    assert len(tune("runs", "--all", "--json").json()) == 3000


def test_the_eval_loss_of_a_resumed_run_is_not_lost(tune: Callable[..., Any], demo: Any) -> None:
    demo.event("eval", step=10, epoch=1.0, metrics={"eval_loss": 1.5})
    demo.event("eval", step=20, epoch=2.0, metrics={"eval_loss": 1.25})
    for step in range(21, 500):
        demo.log(step, 1.0)
    demo.status("running", step=20, total_steps=600, attempt=2)
    assert tune("runs", "--json").json()[0]["eval_loss"] == 1.25
    demo.status("running", step=20, total_steps=600, attempt=2, eval_loss=1.0)
    assert tune("runs", "--json").json()[0]["eval_loss"] == 1.0


@pytest.mark.parametrize("name", ["latest", ID, ID[:20], f"runs/{ID}"])
def test_names(tune: Callable[..., Any], demo: Any, name: str) -> None:
    assert tune("runs", "show", name, "--json").json()["id"] == ID


def test_other_folder(tune: Callable[..., Any], demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.result(step=20, adapter="adapter")
    monkeypatch.setenv("TUNE_RUNS_DIR", "elsewhere")
    assert f"tune chat runs/{ID}\n" in tune("runs", "show", "latest", "--runs-dir", "runs").out
