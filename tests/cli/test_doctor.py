"""`tune doctor`: the pages, what programs get, and the exit codes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from nothing_tune.artifacts import write_json
from nothing_tune.cli import console
from nothing_tune.recipe import library
from nothing_tune.run.doctor import Finding, environment, network

ID = "20261120-214500-demo-l4-9f3a"
FOUND = [
    Finding("software", "python", "ok", "3.11.7 at /usr/bin/python"),
    Finding("software", "numpy", "warn", "1.26.0 is installed, tested is 2.4.6", "pip install numpy==2.4.6"),
    Finding("GPU", "torch", "fail", "2.13.0+cpu is built for the CPU alone, and there is a GPU (NVIDIA L4) that it cannot use for training",
            "pip install --force-reinstall torch==2.13.0; a second way"),
    Finding("shell", "variables", "skip", "none that matter are set"),
]  # fmt: skip
PAGE = """\
software
  ok    python       3.11.7 at /usr/bin/python
  warn  numpy        1.26.0 is installed, tested is 2.4.6
                     pip install numpy==2.4.6
GPU
  fail  torch        2.13.0+cpu is built for the CPU alone, and there is a GPU (NVIDIA L4) that it
                     cannot use for training
                     pip install --force-reinstall torch==2.13.0
                     a second way
shell
  skip  variables    none that matter are set

1 fail, 1 warn, 1 ok; the libraries were not tried (--quick)
first: torch: pip install --force-reinstall torch==2.13.0
"""
BROKEN = """\
20261120-214500-demo-l4-9f3a  failed: 40 of 100 steps, loss 2.500 -> 1.500, 812 tokens/s, 1.2 GiB

fail    the worker was killed by signal 9 (SIGKILL)
  seen  while starting, at step 40 of 100; there is no checkpoint yet
        memory up to 1.2 GiB so far
  why   the kernel out of memory, a container's limit, a scheduler, or someone's kill -9
  do    dmesg -T | grep -i -E 'killed process|oom'
          says whether it was the kernel
        tune doctor
          says how much memory this machine, or its container, has
        tune resume 20261120-214500-demo-l4-9f3a
          starts again: there is no checkpoint yet
        tune resume 20261120-214500-demo-l4-9f3a training.dataloader_num_workers=0
          needs less memory of the machine
  from  nothing-tune, docs/faults.md
"""


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "examine", lambda: list(FOUND))


def test_page_of_a_machine(tune: Callable[..., Any], found: None) -> None:
    done = tune("doctor", "--quick")
    assert done.out == PAGE
    assert done.code == 5


def test_json_of_a_machine(tune: Callable[..., Any], found: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "probed", lambda: [Finding("libraries", "import torch", "ok", "fine")])
    done = tune("doctor", "--json")
    data = done.json()
    assert (done.code, data["ok"]) == (5, False)
    assert data["counts"] == {"ok": 2, "warn": 1, "fail": 1, "skip": 1}
    assert data["first"]["name"] == "torch"
    assert [f["name"] for f in data["findings"]] == ["python", "numpy", "torch", "variables", "import torch"]


def test_a_machine_that_is_well(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "examine", lambda: FOUND[:1])
    monkeypatch.setattr(environment, "probed", lambda: [Finding("libraries", "import torch", "ok", "2.13.0 in 1.5 s")])
    done = tune("doctor")
    assert done.code == 0
    assert done.out.endswith("libraries\n  ok    import torch  2.13.0 in 1.5 s\n\n2 ok: nothing to mend\n")


def test_this_machine_in_all_widths(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TIMEOUT_S", 0.05)
    done = tune("doctor", "--quick", "--runs-dir", "elsewhere")
    assert done.code in (0, 5)
    assert "elsewhere (made when needed)" in done.out
    assert [
        line
        for line in done.out.splitlines()
        if len(line) > console.PIPE_WIDTH and " " in line.strip() and "/" not in line
    ] == []


def test_what_a_recipe_lacks(tune: Callable[..., Any], found: None) -> None:
    done = tune("doctor", "--quick", "--json", "--for", "nothing-gpt")
    own = [f for f in done.json()["findings"] if f["group"] == "recipe"]
    assert {f["status"] for f in own} >= {"fail"}
    assert any("gated" in f["what"] for f in own)
    assert tune("doctor", "nothing-gpt", "--quick", "--json").json()["findings"][-1] == own[-1]
    odd = tune("doctor", "--quick", "--json", "--for", "nothing-gtp").json()["findings"][-1]
    assert (odd["status"], "nothing-gtp" in odd["what"]) == ("fail", True)


def test_a_run_that_is_well(tune: Callable[..., Any], demo: Any) -> None:
    for step in range(1, 21):
        demo.log(step, 2.5 - step / 20)
    demo.result(step=20)
    done = tune("doctor", "latest")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"well  {ID}  done: 20 of 20 steps, loss 2.450 -> 1.500, 812 tokens/s, 1.2 GiB\n"


def test_a_run_that_failed(tune: Callable[..., Any], demo: Any) -> None:
    demo.log(1, 2.5), demo.log(40, 1.5)
    problem = {"what": "the worker was killed by signal 9 (SIGKILL)", "hint": ""}
    demo.result("failed", 5, step=40, error={"problems": [problem]}, signal=9)
    demo.status("failed", step=40, total_steps=100)
    done = tune("doctor", "latest")
    assert done.out == BROKEN
    assert done.code == 5
    data = tune("doctor", "latest", "--json").json()
    assert (data["state"], data["well"], data["causes"][0]["rule"]) == ("failed", False, "killed")
    assert data["causes"][0]["cures"][1] == {
        "command": "tune doctor",
        "why": "says how much memory this machine, or its container, has",
    }
    assert math.isclose(data["facts"]["last_loss"], 1.5)


def test_runs_that_are_not_there_or_not_whole(tune: Callable[..., Any], demo: Any) -> None:
    done = tune("doctor", "nobody", "--json")
    assert (done.code, "no run 'nobody'" in json.loads(done.out)["errors"][0]["what"]) == (2, True)
    (demo.run.path / "adapter").mkdir()
    (demo.run.path.parent.parent / "rows.jsonl").write_text("{}\n")
    for path, kind, hint in (
        (demo.run.path / "adapter", "folder", f"it belongs to a run: tune doctor {library.shown(demo.run.path)}"),
        (demo.run.path.parent, "folder", "tune runs lists the runs; tune doctor --for RECIPE looks at what a recipe needs"),
        (demo.run.path.parent.parent / "rows.jsonl", "file", "tune data inspect {} looks at data; tune runs lists the runs"),
    ):  # fmt: skip
        said = tune("doctor", str(path))
        assert said.err == f"error: {path} is a {kind} and no run\n  hint: {hint.format(path)}\n"
        assert said.code == 2
    (demo.run.path / "plan.json").write_text("{torn")
    done = tune("doctor", ID)
    assert (done.code, "plan.json cannot be read" in done.out) == (5, True)
    write_json(demo.run.path / "plan.json", {"name": "demo"})
    assert tune("doctor", ID).code == 0
