"""`tune compare`: the table, what it refuses, and that it imports nothing heavy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, read_json, write_json
from nothing_tune.cli.compare import page
from nothing_tune.cli.console import Ink
from nothing_tune.outputs.comparison import compare
from tests.outputs.pages import EXPORT, evaluation, record

ID = "20261120-214500-demo-l4-9f3a"
OTHER = "20261120-214600-demo-l4-77aa"


@pytest.fixture
def two(demo: Any) -> tuple[Any, Run]:
    """Two runs that differ in the rank; one has ended, and the other's files are half there."""
    demo.event("start", total_steps=20, train_rows=90, eval_rows=10, trainable_parameters=5000, total_parameters=10_000)
    demo.log(10, 2.5)
    demo.event("eval", step=20, epoch=2.0, metrics={"eval_loss": 0.9})
    demo.result(
        step=20,
        epoch=2.0,
        metrics={"last_loss": 1.5, "eval_loss": 0.9, "num_tokens": 1000, "trained_s": 10.0},
        duration_s=61.4,
    )
    plan = read_json(demo.run.path / "plan.json")
    write_json(demo.run.path / "plan.json", {**plan, "values": {"name": "demo", "peft": {"r": 16}}})
    other = demo.run.path.with_name(OTHER)
    shutil.copytree(demo.run.path, other)
    write_json(other / "plan.json", {**plan, "values": {"name": "demo", "peft": {"r": 4}}})
    (other / "result.json").unlink()
    return demo, Run(other)


def test_the_page(tune: Callable[..., Any], two: Any) -> None:
    said = tune("compare", ID, OTHER)
    assert (said.code, said.err) == (0, "")
    assert said.out == (
        f"A  {ID}  done\n"
        f"B  {OTHER}  done\n"
        "\n"
        "recipe  A   B\n"
        "  peft\n"
        "    r   16  4\n"
        "\n"
        "data               A   B\n"
        "  training rows    90  90\n"
        "  evaluation rows  10  10\n"
        "\n"
        "how they went      A        B\n"
        "  state            done     done\n"
        "  steps            20       20\n"
        "  epochs           2        -\n"
        "  tokens           1,000    -\n"
        "  time             61 s     -\n"
        "  tokens/s         100      -\n"
        "  peak memory      1.2 GiB  1.2 GiB\n"
        "  trained weights  5,000    5,000\n"
        "  last train loss  1.500    2.500\n"
        "  last eval loss   0.900    0.900\n"
        "\n"
        "it is not known of all runs which rows they were evaluated on: their eval losses are not compared\n"
    )
    told = tune("compare", ID, OTHER, "--json").json()
    assert [run["id"] for run in told["runs"]] == [ID, OTHER]
    assert told["recipe"]["peft"] == [
        {"key": "peft.r", "label": "r", "values": [16, 4], "form": "value", "details": [], "best": []}
    ]


def test_what_cannot_be_compared(tune: Callable[..., Any], two: Any) -> None:
    for words, what in (
        ([ID], "one run alone cannot be compared"),
        ([ID, "latest", f"runs/{ID}"], f"{ID} is named twice"),
        ([ID, "nothing"], "no run 'nothing' in"),
    ):
        said = tune("compare", *words)
        assert said.code == 2
        assert what in said.err


def test_a_damaged_run_stands_beside_the_others(tune: Callable[..., Any], two: Any) -> None:
    (two[1].path / "plan.json").write_text("{", encoding="utf-8")
    said = tune("compare", ID, OTHER)
    assert said.code == 0
    assert f"B  {OTHER}  damaged\n   cannot read runs/{OTHER}/plan.json" in said.out
    assert "  last train loss  1.500    -\n" in said.out


def test_many_runs_follow_below_and_long_values_too() -> None:
    many = [record(n, values={"peft.r": n, "data.format": "a-rather-long-name-" * n}) for n in range(1, 10)]
    many[2]["state"] = "failed"
    lines = page(compare(many), Ink(False))
    assert max(map(len, lines)) < 200
    table = lines[lines.index("") :]
    heads = [line.split() for line in table if line.startswith(("recipe ", "data ", "how they went "))]
    assert heads[0][0] == "recipe"
    assert [letter for head in heads if head[0] == "recipe" for letter in head[1:]] == list("ABCDEFGHI")
    assert "      A  a-rather-long-name-" in table
    assert all(len(line) <= 100 for line in table if "rather-long" not in line)


def test_evaluations_exports_and_marks() -> None:
    one = record(evaluations=[evaluation("a", 1.0)], exports=[EXPORT])
    text = "\n".join(page(compare([one, record(2, evaluations=[evaluation("b", 0.8)])]), Ink(False)))
    assert (
        "evaluation held-out  A                          B\n"
        "  loss               1.000 (0.900 to 1.100)     0.800* (0.700 to 0.900)\n"
        "  bits per byte      0.500                      0.400*\n"
        "  exact match        50.0 % (40.0 % to 60.0 %)  50.0 % (40.0 % to 60.0 %)\n"
    ) in text
    assert "  40 rows, the same in all; intervals hold 95 in 100 times\n" in text
    assert "gguf q4_k_m  4.0 KiB, proof failed  -" in text
    assert "best eval loss   0.700* at 20  0.800 at 20" in text
    assert text.endswith("\n* the best of those that can be compared")


def test_other_rows_are_shown_and_told() -> None:
    data = {"kind": "held-out", "sources": ["rows.jsonl"], "digest": "d2"}
    two = record(
        2, evaluations=[evaluation("b", 0.8, data=data, rows={"count": 36})],
        fingerprints={"train_tokens": "t2", "eval_tokens": "e2", "tokenizer": "k1", "chat_template": "c1"},
    )  # fmt: skip
    text = "\n".join(page(compare([record(evaluations=[evaluation("a", 1.0)]), two]), Ink(False)))
    assert (
        "  training rows    90 set 1  90 set 2\n"
        "  evaluation rows  10 set 1  10 set 2\n"
        "  learned tokens   900       900\n"
        "  set 1, set 2: runs of one set have the same rows, runs of another have others\n"
    ) in text
    assert (
        "evaluation held-out  A                          B\n"
        "  rows               40                         36\n"
        "  loss               1.000 (0.900 to 1.100)     0.800 (0.700 to 0.900)\n"
    ) in text
    assert "  each of other rows: not compared; intervals hold 95 in 100 times\n" in text
    assert text.endswith(
        "the evaluations called held-out are of different rows: their values are shown, but cannot be\ncompared"
    )


def test_light(tune: Callable[..., Any], two: Any) -> None:
    heavy = ("torch", "transformers", "peft", "numpy", "jinja2", "rich", "omegaconf")
    code = (
        "import sys, io\n"
        "from nothing_tune.cli.app import main\n"
        "shown, sys.stdout = sys.stdout, io.StringIO()\n"
        f"codes = [main(['compare', {ID!r}, {OTHER!r}]), main(['report', {ID!r}, {OTHER!r}])]\n"
        "sys.stdout = shown\n"
        f"print(codes, [m for m in {heavy!r} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[0, 0] []\n", done.stderr
    assert (Path("runs") / f"report-{ID}-{OTHER}.html").is_file()
    assert not (Path("runs") / ID / "report.html").exists()
