"""`tune list`, `tune validate`, `tune schema` and completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.recipe.library import names

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds


@pytest.mark.parametrize("kind", ["recipes", "gpus", "methods", "quantization", "scenarios", "models"])
def test_list_kind(tune: Callable[..., Any], kind: str) -> None:
    result = tune("list", kind)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split()[0] == kind
    assert [line.split()[0] for line in lines[1:]] == names(kind)
    rows = tune("list", kind, "--json").json()
    assert [row["name"] for row in rows] == names(kind)
    if kind != "gpus":
        assert all(row["description"] for row in rows)
    assert len(rows) >= 4


def test_list_gpus(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from nothing_tune.recipe import machine

    monkeypatch.setattr(machine, "this_machine", lambda: {"name": "t4", "why": "", "facts": {}})
    lines = tune("list", "gpus").out.splitlines()
    assert lines[0].split() == ["gpus", "memory", "bf16", "cc", "TFLOPS", "bandwidth"]
    found = [line for line in lines if line.endswith("found here")]
    assert [line.split() for line in found] == [["t4", "16", "GB", "no", "7.5", "65", "320", "GB/s", "found", "here"]]


def test_list_all(tune: Callable[..., Any]) -> None:
    said = tune("list").out
    kinds = {"gpus", "methods", "quantization", "scenarios", "models", "providers"}
    for kind in kinds:
        for name in names(kind):
            assert f"  {name}" in said
    assert set(tune("list", "--json").json()) == {"recipes", *kinds}


def test_validate_good(tune: Callable[..., Any]) -> None:
    result = tune("validate", "quickstart", "nothing-gpt")
    assert result.code == 0
    *checked, closing = result.out.splitlines()
    assert [line.split()[:2] for line in checked] == [["ok", "quickstart"], ["ok", "nothing-gpt"]]
    assert closing == "data and model are not looked at: tune plan RECIPE does that"


def test_validate_bad(tune: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "layers: [base/qlora]\nname: bad\ntraining: {learning_rat: 1}\nmodle: {}\ngpus: {t4: {}, l4: {}}\n"
    )
    result = tune("validate", "bad.yaml", "quickstart", "missing")
    assert result.code == 2
    lines = result.out.splitlines()
    assert lines[0] == "bad bad.yaml    2 problems"
    assert lines[1].split()[:2] == ["ok", "quickstart"]
    assert lines[2] == "bad missing     1 problem"
    assert result.err.count("learning_rat") >= 1
    assert "bad.yaml:3:" in result.err
    assert "bad.yaml:4:" in result.err
    data = tune("validate", "bad.yaml", "quickstart", "--json").json()
    assert data["ok"] is False
    assert [row["ok"] for row in data["recipes"]] == [False, True]
    assert data["recipes"][0]["gpus"] == ["t4", "l4", "cpu"]
    assert len(data["recipes"][0]["problems"]) == 2


def test_schema(tune: Callable[..., Any]) -> None:
    text = tune("schema").out
    assert "properties" in json.loads(text)
    result = tune("schema", "--out", "recipe.schema.json")
    assert result.code == 0
    assert Path("recipe.schema.json").read_text() == text
    failed = tune("schema", "--out", "no/such/folder.json")
    assert failed.code == 74


COMPLETIONS = [
    ("tune sho", ["show-config"]),
    ("tune show-config --gpu l4", ["l4", "l40s"]),
    ("tune train not", ["nothing-gpt"]),
    ("tune train mi", ["mine.yaml"]),
    ("tune train quickstart --scenario de", ["debug"]),
    ("tune show-config --with models/na", ["models/nano"]),
    ("tune list gp", ["gpus"]),
    ("tune chat la", ["latest"]),
    ("tune watch 2026", ["20261120-214500-demo-l4-9f3a"]),
    ("tune train --method vera", ["vera"]),
    ("tune runs sh", ["show"]),
    ("tune train quickstart --max-s", ["--max-samples", "--max-steps"]),
]


@pytest.mark.parametrize(("line", "found"), COMPLETIONS, ids=[line for line, _ in COMPLETIONS])
def test_completion(demo: Any, tmp_path: Path, line: str, found: list[str]) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    words = {"_TUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    environment = {**os.environ, **words}
    done = subprocess.run(
        [sys.executable, "-m", "nothing_tune"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == found, done.stderr


def test_broken_pipe() -> None:
    """`tune list | head -1` is quiet."""
    shell = f"{sys.executable} -m nothing_tune list gpus | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode in (0, 141)
