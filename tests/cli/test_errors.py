"""What a wrong command line gives: exact lines and exit codes; no traceback, nothing left behind."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nothing_tune.cli
from nothing_tune.cli import app

TABLE: list[tuple[str, str]] = [
    ("trian", "error: no such command: trian\n  hint: did you mean train?\n"),
    ("inspect rows.jsonl", "error: no such command: inspect\n  hint: did you mean tune data inspect?\n"),
    ("genrate marco", "error: no such command: genrate\n  hint: did you mean tune data generate?\n"),
    ("zzz", "error: no such command: zzz\n  hint: tune --help lists the commands\n"),
    ("--bogus", "error: no such option: --bogus\n  hint: `tune --help` shows how it is used\n"),
    (
        "show-config --gpus l4",
        "error: no such option: --gpus\n  hint: did you mean --gpu? `tune show-config --help` shows all options\n",
    ),
    ("watch", "error: missing argument 'RUN_ID'\n  hint: `tune watch --help` shows how it is used\n"),
    (
        "train quickstart --max-steps many",
        "error: invalid value for '--max-steps': 'many' is not a whole number\n"
        "  hint: `tune train --help` shows how it is used\n",
    ),
    (
        "train quickstart --max-samples 0",
        "error: invalid value for '--max-samples': 0 is less than 1\n  hint: `tune train --help` shows how it is used\n",
    ),
    (
        "chat latest --temperature nan",
        "error: invalid value for '--temperature': nan is less than 0\n  hint: `tune chat --help` shows how it is used\n",
    ),
    ("list gpu", "error: there is no kind 'gpu' of things to list\n  hint: did you mean gpus?\n"),
    (
        "train",
        "error: which recipe? none is named\n"
        "  hint: tune train quickstart; or tune train --model NAME --data FILE; tune list shows the recipes\n",
    ),
    (
        "train quickstart marco",
        "error: two recipes are given: quickstart and marco\n"
        "  hint: an override is written KEY=VALUE, without spaces\n",
    ),
    ("train --model org/x", "error: --data is missing\n  hint: tune train --model ORG/NAME --data rows.jsonl\n"),
    (
        "train quickstart --model org/x --data d.jsonl",
        "error: a recipe (quickstart) and --model, --data or --method are given\n"
        "  hint: with a recipe write: tune train quickstart model.name_or_path=NAME data.train=FILE\n",
    ),
    (
        "train quickstart --continue",
        "error: --continue needs --name\n  hint: tune resume latest continues the newest run\n",
    ),
    ("show-config --gpu t44", "error: unknown GPU 't44'\n  hint: did you mean t4?\n"),
    (
        "show-config --diff zzzz",
        "error: --diff zzzz: no GPU, scenario or recipe of that name\n"
        "  hint: tune list shows all GPUs, scenarios and recipes\n",
    ),
    (
        "show-config --why training.learning_rat",
        "error: base/qlora has no value training.learning_rat\n  hint: did you mean training.learning_rate?\n",
    ),
    (
        "watch latest",
        "error: there is no run in {cwd}/runs\n  hint: tune train RECIPE makes one; --runs-dir names another folder\n",
    ),
    (
        "resume",
        "error: there is no unfinished run in {cwd}/runs\n  hint: tune runs lists all; tune train makes a new one\n",
    ),
]


@pytest.mark.parametrize(("line", "said"), TABLE, ids=[line for line, _ in TABLE])
def test_table(tune: Callable[..., Any], line: str, said: str) -> None:
    result = tune(*line.split())
    assert (result.code, result.out, result.err) == (2, "", said.replace("{cwd}", os.getcwd()))
    assert os.listdir() == []


def test_near_recipes(tune: Callable[..., Any]) -> None:
    result = tune("train", "quikstart")
    assert result.code == 2
    assert result.err.startswith("error: no recipe 'quikstart': looked for ")
    assert result.err.endswith("  hint: did you mean quickstart?\n")


def test_near_runs(tune: Callable[..., Any], demo: Any) -> None:
    result = tune("watch", "20261120-214500-dmo")
    assert result.code == 2
    assert result.err.endswith("  hint: nearest: 20261120-214500-demo-l4-9f3a\n")
    assert tune("watch", "xyz").err.endswith("  hint: the newest: 20261120-214500-demo-l4-9f3a\n")


def test_json(tune: Callable[..., Any]) -> None:
    result = tune("show-config", "--gpu", "t44", "--json")
    assert (result.code, result.err) == (2, "")
    answer = result.json()
    assert answer["exit_code"] == 2
    assert answer["errors"][0]["what"] == "unknown GPU 't44'"


def test_bug(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(app, "run", broken)
    assert tune("list").err == (
        "error: this is a bug in nothing-tune: RuntimeError: two\n"
        "  hint: please report it at https://github.com/nothing-tune/nothing-tune/issues; "
        "TUNE_TRACEBACK=1 shows where it happened\n"
    )
    assert tune("list").code == 1
    monkeypatch.setenv("TUNE_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        tune("list")


def test_interrupt(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", broken)
    assert tune("list") == type(tune("--version"))(130, "", "") or tune("list").code == 130


def test_colours(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert tune("trian").err == (
        "\x1b[1;31merror:\x1b[0m \x1b[1mno such command: trian\x1b[0m\n\x1b[2m  hint:\x1b[0m did you mean train?\n"
    )
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in tune("trian").err


def test_one_except() -> None:
    """The whole box catches `TuneError` in one place; another rewords usage errors, and raises them on."""
    from nothing_tune import errors

    known = {name for name in vars(errors) if isinstance(vars(errors)[name], type) and name != "Problem"}
    found = []
    files = sorted(Path(nothing_tune.cli.__path__[0]).rglob("*.py"))
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
                if caught & known:
                    found.append((path.name, sorted(caught & known)))
    assert found == [("console.py", ["TuneError"]), ("reading.py", ["UsageError"])]
    assert len(files) > 30


def test_json_is_finite(capsys: pytest.CaptureFixture[str]) -> None:
    from nothing_tune.cli.console import out_json

    out_json({"a": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"a": None}
