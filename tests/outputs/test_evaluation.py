"""The record of an evaluation: whole and back, its name, what takes its place, and the words for its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run
from nothing_tune.errors import UsageError
from nothing_tune.outputs import evaluation as record
from nothing_tune.outputs.evaluation import METRICS, Evaluation, Group, Metric

ONE = Evaluation(
    name="held-out", run="r-1", step=20, data={"kind": "held-out", "sources": ["rows.jsonl"], "digest": "ab"},
    rows={"count": 40}, metrics={"loss": Metric(1.0, 0.9, 1.1, 40)}, base={"loss": Metric(2.0, 1.9, 2.1, 40)},
    difference={"loss": Metric(-1.0, -1.1, -0.9, 40)},
    groups={"turn": [Group("1", 40, {"loss": Metric(1.0)}, None, {"loss": Metric(-1.0)})]}, settings={"level": 0.95}, time=5.0,
)  # fmt: skip


def test_a_record_is_written_whole_and_read_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    path, named = record.write(run, replace(ONE, metrics={"loss": Metric(float("inf"))}))
    assert (path, named.name) == (tmp_path / "evaluations" / "held-out.json", "held-out")
    assert record.read(path).metrics["loss"].value is None  # what is not finite is null
    assert record.write(run, ONE)[0] == path  # the same step and rows: it takes its place
    assert record.read(path) == ONE
    assert [p.name for p in path.parent.iterdir()] == ["held-out.json"]
    other = record.write(run, replace(ONE, step=40, time=6.0))[1]
    rows = record.write(run, replace(ONE, data={**ONE.data, "digest": "cd"}, time=1.0))[1]
    assert (other.name, rows.name) == ("held-out-2", "held-out-3")
    assert [one.name for one in record.all_of(run)] == ["held-out-3", "held-out", "held-out-2"]
    path.write_text("{", encoding="utf-8")
    assert len(record.all_of(run)) == 2
    for text, why in (
        ("[]", f"there is no evaluation at {path}"),
        ('{"schema": 9}', f"{path} was written by a newer nothing-tune"),
        ('{"schema": 1, "metrics": 3}', f"{path} is damaged: 'int' object has no attribute 'items'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError) as error:
            record.read(path)
        assert error.value.problems[0].what == why
    assert json.loads((path.parent / "held-out-2.json").read_text())["schema"] == record.SCHEMA


def test_what_holds_less_never_replaces_what_holds_more(tmp_path: Path) -> None:
    run = Run(tmp_path)
    whole = replace(
        ONE, rows={"count": 40, "answers": 30}, metrics={**ONE.metrics, "exact_match": Metric(0.5)},
        groups={**ONE.groups, "column level": [Group("1", 40, {"loss": Metric(1.0)})]}, settings={"judge": {"judge": "score"}},
    )  # fmt: skip
    path = record.write(run, whole)[0]
    for changes, why in (
        ({"rows": {"count": 8, "answers": 30}}, "holds more: rows"),
        ({"rows": {"count": 40}, "metrics": ONE.metrics}, "holds more: answers"),
        ({"base": None, "difference": None}, "holds more: the base"),
        ({"groups": ONE.groups}, "holds more: groups"),
        ({"settings": {}}, "holds more: verdicts of a judge"),
        ({"metrics": ONE.metrics}, "holds more: figures"),
        ({"step": 40}, "is of step 20"),
        ({"data": {**ONE.data, "digest": "cd"}}, "is of other rows or tasks"),
    ):
        assert record.kept(run, replace(whole, **changes)) == why  # type: ignore[arg-type]
    less = replace(whole, groups=ONE.groups)
    names = [record.write(run, one)[1].name for one in (less, less, whole)]
    assert names == ["held-out-2", "held-out-2", "held-out"]  # its own kind is replaced
    assert record.read(path) == whole
    assert record.kept(run, replace(whole, time=9.0, groups={**whole.groups, "column kind": []})) == ""
    assert record.kept(run, replace(whole, name="other")) == ""


def test_names_and_words() -> None:
    assert record.default_name([]) == "held-out"
    assert record.default_name(["/a/b/My Rows.eval.jsonl", "data/more/"]) == "my-rows-more"
    assert record.default_name([], ["mine/arc.yaml", "hellaswag"]) == "arc-hellaswag"
    for bad in ("", "../x", "A", ".x", "x" * 65):
        with pytest.raises(UsageError):
            record.check_name(bad)
    down, up, none = Metric(-1.0, -2.0, -0.5, 40), Metric(1.0, 0.5, 2.0, 40), Metric(0.0, -1.0, 1.0, 1)
    assert [record.verdict(n, d) for n, d in (("loss", down), ("loss", up), ("exact_match", up), ("ended", down))] == [
        "better", "worse", "better", "worse",
    ]  # fmt: skip
    assert record.verdict("loss", none) == "no difference that 1 row can show"
    assert (record.verdict("length", up), record.verdict("loss", Metric(1.0)), record.verdict("loss", None)) == (
        "",
    ) * 3
    assert record.fact("task/my/arc/acc_norm") == record.Fact(
        "my/arc: acc_norm", "higher", "number", "acc_norm of the task my/arc"
    )
    assert record.fact("task/wiki/word_perplexity").better == "lower"
    assert [record.shown("ended", 0.5), record.shown("ended", 0.021, True), record.shown("loss", None)] == [
        "50.0 %",
        "+2.1 pp",
        "-",
    ]
    assert [record.shown("loss", 1.23456), record.shown("perplexity", 12345.6), record.shown("length", 12.34)] == [
        "1.235",
        "12,346",
        "12.3",
    ]
    for name, fact in METRICS.items():
        assert fact.label, name
        assert fact.what, name
        assert fact.better in ("lower", "higher", ""), name
        assert fact.form in ("number", "share", "count"), name
