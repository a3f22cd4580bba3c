"""What differs between runs, and what of them may be called better: only what is of the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, write_json
from nothing_tune.outputs import comparison
from nothing_tune.outputs.comparison import compare
from nothing_tune.outputs.lines import UNKNOWN, Line, best_of, written
from tests.outputs.pages import EXPORT, MARKS, evaluation, record


def line(lines: Any, key: str) -> Line:
    return next(one for one in lines if one.key == key)


def test_only_what_differs_is_told_by_section() -> None:
    other = record(
        2, values={"peft.r": 4, "training.learning_rate": 1e-3, "gpu.memory_gb": 40, "model.facts": {"x": 1}}
    )
    found = compare([record(), other])
    assert {s: [(one.label, one.values) for one in lines] for s, lines in found.recipe.items()} == {
        "peft": [("r", (16, 4))],
        "training": [("learning_rate", (2e-4, 1e-3))],
    }
    every = compare([record(), other], everything=True)
    assert "name_or_path" in [one.label for one in every.recipe["model"]]


def test_a_setting_of_a_newer_version_is_no_difference() -> None:
    newer = record(
        2, values={"export.adapter": False, "export.private": True, "checkpoint.deadline": None, "data.format": "auto"}
    )
    assert compare([record(), newer]).recipe == {}
    assert list(compare([record(), record(2, values={"export.adapter": True})]).recipe) == ["export"]


def test_the_best_is_marked_where_the_rows_are_the_same() -> None:
    found = compare([record(), record(2)])
    assert found.same_rows == {"train": True, "eval": True}
    assert line(found.went, "best").best == (0,)
    assert line(found.went, "eval_loss").best == (0,)
    assert line(found.went, "best").details == ("at 20", "at 20")
    assert found.notes == ()
    assert [written(one, 0) for one in found.went] == [
        "done", "20", "2", "30,000", "5 min", "1,000", "3.5 GiB", "$0.07", "5,000", "0.600", "0.700", "0.700",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("marks", "note"),
    [
        ({**MARKS, "eval_tokens": "e2"}, "the evaluation rows differ: eval losses of other rows are not compared"),
        (
            {**MARKS, "eval_tokens": "e2", "tokenizer": "k2"},
            "the tokenizers differ: a loss counts tokens, so that losses cannot be compared; bits per byte can: tune eval",
        ),
        (
            {**MARKS, "eval_tokens": "e2", "chat_template": "c2"},
            "the chat templates differ: the rows are written in other tokens, and losses are not of the same text",
        ),
    ],
)
def test_nothing_is_best_of_other_rows(marks: dict[str, str], note: str) -> None:
    found = compare([record(), record(2, fingerprints=marks)])
    assert not any(one.best for one in found.went)
    assert found.notes == (note,)
    assert line(found.data, "data.eval").details == ("set 1", "set 2")


def test_without_fingerprints_the_files_tell() -> None:
    """A run that was never saved: its files, and all that chooses rows of them."""
    bare = record(2, fingerprints={})
    assert compare([record(), bare]).same_rows == {"train": True, "eval": True}
    assert not compare([record(), record(2, fingerprints={}, values={"data.split_seed": 7})]).same_rows["eval"]
    unknown = record(2, fingerprints={}, data={**bare["data"], "sources": []})
    found = compare([record(), unknown])
    assert not any(one.best for one in found.went)
    assert "not known of all runs" in found.notes[0]


def test_evaluations_are_compared_on_the_same_rows_only() -> None:
    one, two = record(evaluations=[evaluation("a", 1.0)]), record(2, evaluations=[evaluation("b", 0.8)])
    (found,) = compare([one, two]).evaluated
    assert (found.name, found.rows, line(found.lines, "loss").best) == ("held-out", 40, (1,))
    assert line(found.lines, "loss").details == ("0.900 to 1.100", "0.700 to 0.900")
    assert line(found.lines, "length").best == ()
    elsewhere = record(
        2, evaluations=[evaluation("b", 0.8, data={"kind": "held-out", "sources": ["rows.jsonl"], "digest": "d2"})]
    )
    apart = compare([one, elsewhere])
    (found,) = apart.evaluated
    assert found.rows_differ
    assert [v["value"] for v in line(found.lines, "loss").values] == [1.0, 0.8]
    assert line(found.lines, "rows").values == (40, 40)
    assert not any(one.best for one in found.lines)
    assert apart.notes == (
        "the evaluations called held-out are of different rows: their values are shown, but cannot be compared",
    )
    alone = compare([one, record(2)])
    assert alone.notes == ("the evaluation held-out was made of one run only: tune eval makes it of the others",)
    assert line(alone.evaluated[0].lines, "loss").values[1] is None
    three = compare([one, two, elsewhere])
    assert [(e.rows, e.rows_differ) for e in three.evaluated] == [(40, False), (None, True)]
    assert [v and v["value"] for v in line(three.evaluated[1].lines, "loss").values] == [None, None, 0.8]
    assert three.notes == (
        "of held-out, some runs have evaluations of other rows: they stand apart, and are not compared",
    )


def test_some_of_the_rows_are_not_all_of_them() -> None:
    few = evaluation("b", 0.8, rows={"count": 8})
    (found,) = compare([record(evaluations=[evaluation()]), record(2, evaluations=[few])]).evaluated
    assert (found.rows_differ, line(found.lines, "rows").values, line(found.lines, "loss").best) == (True, (40, 8), ())
    later = evaluation("a", 1.0, name="held-out-2", time=9e9)
    del later["metrics"]["exact_match"]
    (found,) = compare(
        [record(evaluations=[evaluation(), later]), record(2, evaluations=[evaluation("b", 0.8)])]
    ).evaluated
    assert line(found.lines, "exact_match").values[0] is not None, "the one that holds more stands for the run"


def test_intervals_that_overlap_have_no_best() -> None:
    (found,) = compare(
        [record(evaluations=[evaluation("a", 1.0)]), record(2, evaluations=[evaluation("b", 0.95)])]
    ).evaluated
    assert line(found.lines, "loss").best == ()
    assert line(found.lines, "bits_per_byte").best == (1,), "it has no interval here"


def test_an_evaluation_of_the_best_step_stands_for_the_run() -> None:
    several = [evaluation("a", 2.0, name="held-out-2", step=10, time=9e9), evaluation("a", 1.0)]
    found = compare([record(evaluations=several), record(2, evaluations=[evaluation("b", 1.5)])])
    assert line(found.evaluated[0].lines, "loss").best == (0,)


def test_answers_that_were_drawn_otherwise_are_not_compared() -> None:
    other = evaluation("b", 0.8, settings={"generation": {"max_new_tokens": 8}})
    other["metrics"]["exact_match"]["value"] = 0.9
    (found,) = compare([record(evaluations=[evaluation()]), record(2, evaluations=[other])]).evaluated
    assert found.settings_differ
    assert line(found.lines, "exact_match").best == ()
    assert line(found.lines, "loss").best == (1,)


def test_other_tokenizers_leave_bits_per_byte() -> None:
    marks = {**MARKS, "eval_tokens": "e2", "tokenizer": "k2"}
    theirs = evaluation("b", 0.8, data={"kind": "held-out", "sources": ["/x/rows.jsonl"], "digest": "d2"})
    found = compare([record(evaluations=[evaluation()]), record(2, fingerprints=marks, evaluations=[theirs])])
    (one,) = found.evaluated
    assert one.tokenizers_differ
    assert (line(one.lines, "loss").best, line(one.lines, "bits_per_byte").best) == ((), (1,))


def test_exports_and_their_proofs() -> None:
    (one,) = compare([record(exports=[EXPORT]), record(2)]).exports
    assert (one.label, one.values, one.details) == ("gguf q4_k_m", (4096, None), ("proof failed", ""))


def test_a_run_of_damaged_files_is_shown_with_what_there_is(tmp_path: Path) -> None:
    run = Run(tmp_path / "broken")
    run.path.mkdir()
    (run.path / "plan.json").write_text("{", encoding="utf-8")
    write_json(run.path / "result.json", {"state": "done", "metrics": {"eval_loss": 0.1}})
    made = comparison.gathered(run)
    assert made["state"] == "damaged"
    assert "plan.json" in made["problem"]
    write_json(run.path / "plan.json", {"values": 3})
    assert comparison.gathered(run)["problem"].startswith("its files are not those of a run")
    found = compare([record(), record(2), made])
    assert line(found.went, "eval_loss").values == (0.7, 0.8, 0.1)
    assert line(found.went, "eval_loss").best == (0,), "of which rows the third one is, nobody knows"
    changed = compare([record(values={"peft.r": 8}), record(2), made])
    assert changed.recipe["peft"][0].values == (8, 16, UNKNOWN)
    assert json.loads(json.dumps(changed.to_json()))["recipe"]["peft"][0]["values"] == [8, 16, None]


def test_best_of() -> None:
    assert best_of([1.0, None, 0.5], True) == (2,)
    assert best_of([1.0, None, 0.5], False) == (0,)
    assert best_of([1.0, 1.0], True) == ()
    assert best_of([1.0, None], True) == ()
    assert best_of([0.5, 0.5, 1.0], True) == (0, 1)
