"""`tune eval`: its page, what it refuses before the engine starts, and a run that is really measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nothing_tune.cli import eval as command
from nothing_tune.cli.console import Ink
from nothing_tune.cli.eval import page
from nothing_tune.outputs.evaluation import Evaluation, Group, Metric
from tests.cli.conftest import Demo, Output

FOUND = Evaluation(
    name="held-out", run="r-1", step=20, data={"kind": "held-out", "sources": ["rows.jsonl"], "digest": "ab"},
    rows={"count": 12, "of": 40, "supervised_tokens": 715, "answers": 21, "seen": 0},
    metrics={
        "loss": Metric(1.0, 0.9, 1.1, 12), "exact_match": Metric(0.5, 0.3, 0.7, 21), "length": Metric(12.5, 11.0, 14.0, 12),
        "judge_win": Metric(0.4, 0.2, 0.6, 21), "judge_tie": Metric(0.35, 0.2, 0.5, 21),
    },
    base={"loss": Metric(2.0, 1.9, 2.1, 12), "exact_match": Metric(0.5, 0.3, 0.7, 21), "length": Metric(10.0)},
    difference={
        "loss": Metric(-1.0, -1.1, -0.9, 12), "exact_match": Metric(0.0, -0.1, 0.1, 12), "length": Metric(2.5, 1.0, 4.0, 12),
        "judge_win": Metric(0.15, -0.1, 0.4, 12),
    },
    groups={"turn": [
        Group("1", 12, {"loss": Metric(0.8)}, {"loss": Metric(1.0)}, {"loss": Metric(-0.2, -0.3, -0.1, 12)}),
        Group("2", 9, {"loss": Metric(1.2)}, {"loss": Metric(1.1)}, {"loss": Metric(0.1, -0.1, 0.3, 9)}),
    ]},
    samples=[{"why": "worst", "place": "rows.jsonl:3", "loss": 2.5, "prompt": "user: Who?\n\nuser: When?", "reference": "Now.",
              "answer": "Then.\nLater.", "base_answer": ""}],
    settings={"level": 0.95, "judge": {"judge": "pairwise", "kind": "pairwise", "model": "m", "against": "base", "asked": 42,
                                       "tokens_in": 4200, "tokens_out": 210, "faults": {"status 500: no": 2}}},
    base_name="org/base",
)  # fmt: skip
PAGE = """\
held-out  r-1, step 20, 12 of 40 rows, 715 learned tokens, 21 answers
  rows  rows.jsonl, held out by the run
  base  org/base

                  base     run  difference  95 %
loss             2.000   1.000      -1.000  (-1.100 to -0.900)  better
exact match     50.0 %  50.0 %     +0.0 pp  (-10.0 to +10.0)    no difference
length, tokens    10.0    12.5        +2.5  (+1.0 to +4.0)
no difference: none that 12 rows can show; the interval holds 0

judge  pairwise by m, against the base
  wins  40.0 %  (20.0 to 60.0)
  ties  35.0 %  (20.0 to 50.0)
  wins less losses +15.0 pp (-10.0 to +40.0): no difference that 12 rows can show
  42 questions asked, 4,200 tokens in, 210 out
  2 questions without an answer: status 500: no

turn  rows  loss: base    run
1       12       1.000  0.800  better
2        9       1.100  1.200  =

worst  rows.jsonl:3, loss 2.500
  asked        When?
  in the data  Now.
  base         (nothing)
  run          Then. Later.

written to x.json"""


def test_the_page() -> None:
    assert "\n".join(page.lines(FOUND, "x.json", 100, Ink(False))) == PAGE
    alone = replace(
        FOUND, base=None, difference=None, groups={}, samples=[], settings={}, rows={"count": 3, "seen": None}
    )
    assert page.lines(alone, "x.json", 80, Ink(False)) == [
        "held-out  r-1, step 20, 3 rows, 0 learned tokens",
        "  rows  rows.jsonl, held out by the run",
        "  base  org/base",
        "  nobody looked whether the run was trained on these rows",
        "",
        "                   run  95 %",
        "loss             1.000  (0.900 to 1.100)",
        "exact match     50.0 %  (30.0 to 70.0)",
        "length, tokens    12.5  (11.0 to 14.0)",
        "3 rows are few: more would say more",
        "",
        "written to x.json",
    ]
    assert all(len(line) <= 100 for line in page.lines(FOUND, "x.json", 80, Ink(False)))


def test_what_is_refused_before_the_engine_starts(demo: Demo, tune: Callable[..., Output]) -> None:
    for words, what in (
        (("--endpoint", "http://x/v1"), "error: --endpoint is given without --judge"),
        (("--judge", "pairwise"), "error: --judge needs --endpoint and --judge-model"),
        (("--judge", "score", "--endpoint", "x", "--judge-model", "m"), "error: x is no address"),
        (("--judge", "nobody"), "error: no judge 'nobody': looked for"),
        (("--name", "../x"), "error: '../x' cannot be an evaluation's name"),
    ):
        said = tune("eval", "latest", *words)
        assert (said.code, said.out) == (2, ""), words
        assert said.err.startswith(what), (words, said.err)
    assert tune("eval", "nothing-there").code == 2


def test_what_the_engine_is_asked_and_what_it_says(
    demo: Demo, tune: Callable[..., Output], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def measured(request: dict[str, Any], quiet: bool) -> dict[str, Any]:
        asked.append(request)
        return {"type": "report", "path": "x.json", "evaluation": FOUND.to_json()}

    monkeypatch.setattr(command, "_measured", measured)
    said = tune(
        "eval", "latest", "--tasks", "a,b", "--tasks", "c.yaml", "--data", "org/rows:test", "--rows", "5", "--no-base"
    )
    assert said.code == 0
    assert said.out.startswith("held-out  r-1, step 20")
    assert (asked[0]["tasks"][:2], asked[0]["data"], asked[0]["rows"], asked[0]["base"]) == (
        ["a", "b"],
        ["org/rows:test"],
        5,
        False,
    )
    assert asked[0]["tasks"][2] == "c.yaml"  # nothing is there: the engine tells where it looked
    shown = tune("eval", "latest", "--json", "--judge", "pairwise", "--endpoint", "http://x/v1/", "--judge-model", "m")
    assert shown.json()["metrics"]["loss"] == {"value": 1.0, "low": 0.9, "high": 1.1, "n": 12}
    assert asked[1]["judge"]["kind"] == "pairwise"
    assert asked[1]["endpoint"] == {
        "base_url": "http://x/v1",
        "model": "m",
        "api_key_env": "OPENAI_API_KEY",
        "concurrency": 8,
    }
