"""The forecast of a recipe: what is gathered for it on this machine, and that what it proposes does what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run, write_json
from nothing_tune.plan import Plan, make_plan
from nothing_tune.plan.rows import COUNTED, GIVEN, Rows
from nothing_tune.recipe import load_recipe
from nothing_tune.run import forecast as forecasts
from nothing_tune.run.pace import pace

pytestmark = pytest.mark.engine  # takes seconds


def planned(*words: str) -> Plan:
    return make_plan(load_recipe("nothing-gpt", gpu="l4", overrides=words))


@pytest.mark.parametrize("processes", [1, 4])
def test_proposed_changes_fit_and_keep_the_rows_of_a_step(processes: int, tmp_path: Path) -> None:
    words = (f"launch.processes={processes}", "training.activation_checkpointing=false")
    rows = Rows(GIVEN, 13482, 1498)
    first = forecasts.forecast(planned(*words), rows, fetch=False, runs=tmp_path)
    assert first.verdict == "does not fit"
    assert first.memory
    assert first.memory.changes
    assert first.maths
    for change in first.memory.changes:
        after = forecasts.forecast(planned(*words, *change.words), rows, fetch=False, runs=tmp_path)
        assert after.verdict == "fits"
        assert after.maths
        assert after.maths.global_batch == first.maths.global_batch == 16
        assert after.memory
        assert after.memory.longest.peak == change.estimate.peak
    holds = first.memory.holds
    assert holds
    for length, verdict in ((holds, "fits"), (holds + 64, "does not fit")):
        found = forecasts.forecast(planned(*words, f"training.max_length={length}"), rows, fetch=False, runs=tmp_path)
        assert found.verdict == verdict


def test_given_rows_are_training_rows() -> None:
    assert forecasts.given(900, planned()) == Rows(GIVEN, train=900, eval=100)
    assert forecasts.given(900, planned("data.eval=held.jsonl")) == Rows(GIVEN, train=900, eval=None)
    off = ("data.eval=null", "training.eval_strategy=no", "training.load_best_model_at_end=false")
    assert forecasts.given(900, planned(*off)) == Rows(GIVEN, train=900, eval=0)


def test_rows_are_counted_without_a_tokenizer(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"row {n % 40}"}) for n in range(50)]  # ten copies
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    source = f"data.train={tmp_path / 'rows.jsonl'}"
    found = forecasts.counted(planned(source))
    assert (found.train, found.eval) == (36, 4)
    assert [f["what"] for f in found.findings] == ["1 of 51 rows is bad, and none may be"]
    some = "data.max_bad_rows=0.1"
    assert forecasts.counted(planned(source, some)) == Rows(COUNTED, train=36, eval=4)
    assert forecasts.counted(planned(source, some, "data.dedupe=none", "data.max_samples=20")) == Rows(
        COUNTED, train=20, eval=5
    )
    assert forecasts.counted(planned(source), limit=100) == Rows(), "more than may be read now"
    assert forecasts.counted(planned("data.train=gone.jsonl")) == Rows()
    both = f"data.train=[{{source: {tmp_path / 'rows.jsonl'}, max_rows: 10}}, {tmp_path / 'rows.jsonl'}]"
    assert forecasts.counted(planned(both, f"data.eval={tmp_path / 'rows.jsonl'}")).train == 40


def test_the_pace_of_a_run_like_it(tmp_path: Path) -> None:
    plan = planned()
    assert pace(plan, tmp_path / "none") is None
    made = {"state": "done", "step": 100, "attempt": 1, "metrics": {"trained_s": 850.0}}
    for name, values, result in (
        ("20261101-000000-a-l4-0001", plan.values, made),
        ("20261102-000000-a-l4-0002", planned("peft.r=8").values, made),
        ("20261103-000000-a-l4-0003", plan.values, {**made, "step": 5}),
    ):
        run = Run(tmp_path / name)
        run.path.mkdir()
        write_json(run.path / "plan.json", {"values": values})
        write_json(run.path / "result.json", result)
        write_json(run.path / "machine.json", {"engine": {"cpus": os.cpu_count()}})
    found = pace(plan, tmp_path)
    assert found
    assert (found.step_s, found.steps, found.run) == (8.5, 100, "20261101-000000-a-l4-0001")
    told = forecasts.forecast(plan, Rows(GIVEN, 13482, 1498), fetch=False, runs=tmp_path)
    assert told.hours
    assert round(told.hours[0], 2) == round(1686 * 8.5 / 3600, 2)
    assert told.costs[-1].usd == pytest.approx(told.hours[0] * told.costs[-1].usd_per_hour)
