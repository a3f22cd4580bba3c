"""The training maths: the source's table, and what rows of each kind mean. The Trainer itself: tests/engine/test_maths.py."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from nothing_tune.plan import make_plan
from nothing_tune.plan.maths import Every, maths
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import COUNTED, GIVEN, TOKENISED, Rows, of_report
from nothing_tune.recipe import load_recipe

TABLE = Path(__file__).parents[1] / "sources" / "training-math.yaml"


def plan(**training: Any) -> Plan:
    empty: dict[str, Any] = {"name": "p", "gpu": {}, "values": {}, "model": {}, "quantization": None, "peft": None}
    rest: dict[str, Any] = {"tracking": {}, "monitor": {}, "checkpoint": {}, "trainable_dtype": None}
    return Plan(**empty, **rest, data={"eval": 0.1}, training=training)


def test_the_table_of_the_source() -> None:
    data = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    found = maths(Rows(GIVEN, train=data["rows"], eval=1498), make_plan(load_recipe(data["recipe"], gpu=data["gpu"])))
    assert found
    ours: dict[str, Any] = asdict(found)
    ours["warmup_share_of_epoch"] = found.warmup / found.per_epoch
    assert len(data["table"]) == 11
    for row in data["table"]:
        value: Any = ours
        for part in row["key"].split("."):
            value = value[part]
        assert (round(value, 2) if isinstance(row["value"], float) else value) == row["value"], row


def test_nothing_is_counted_without_rows() -> None:
    assert maths(Rows(), plan()) is None
    assert maths(Rows(GIVEN, train=0), plan()) is None


def test_tokens_and_what_is_left_out() -> None:
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    rows = Rows(TOKENISED, train=30, eval=0, sequences=30, tokens=3000)
    whole, dropped = maths(rows, plan(**settings)), maths(rows, plan(**settings, dataloader_drop_last=True))
    assert whole
    assert dropped
    assert (whole.per_epoch, whole.last, whole.dropped, whole.tokens, whole.tokens_a_step) == (4, 6, 0, 6000, 750.0)
    assert (dropped.per_epoch, dropped.last, dropped.dropped, dropped.tokens) == (4, 4, 2, 5600)
    assert whole.evaluations is None, "there are no rows to evaluate on"


def test_packing_cannot_be_counted_without_tokens() -> None:
    found = maths(Rows(COUNTED, train=100), plan(packing=True, per_device_train_batch_size=2))
    assert found
    assert (found.exact, found.sequences) == (False, 100)
    assert found.note == (
        "counted in the data, without its tokens; before packing, which joins rows: the steps are fewer, by how much only "
        "the tokens tell"
    )
    known = maths(Rows(TOKENISED, train=100, sequences=12), plan(packing=True, per_device_train_batch_size=2))
    assert known
    assert (known.exact, known.sequences, known.per_epoch) == (True, 12, 6)


def test_epochs_that_end_within() -> None:
    found = maths(
        Rows(GIVEN, train=100, eval=5),
        plan(per_device_train_batch_size=10, num_train_epochs=1.5, eval_strategy="epoch", save_strategy="no"),
    )
    assert found
    assert (found.total, found.evaluations, found.saves) == (15, Every(10, 1.0, 2), None)


def test_rows_of_a_report() -> None:
    side = {
        "rows": 10, "sequences": 4, "tokens": 900, "supervised_tokens": 300, "lengths": {"max": 700},
        "histogram": [[0, 50, 5], [50, 100, 3], [650, 750, 2]],
    }  # fmt: skip
    report = {"train": side, "eval": None, "max_length": 512, "truncation": "right", "packing": False, "findings": []}
    rows = of_report(report)
    assert (rows.longest, rows.sequences, rows.eval) == (512, 4, 0)
    assert rows.typical(1, 512, False) == round((24.5 * 5 + 74.5 * 3 + 512 * 2) / 10)
    assert rows.typical(1000, 512, False) == 512, "the longest of many rows is the longest there is"
    assert Rows().typical(8, 512, False) is None
    assert of_report({**report, "packing": True}).typical(8, 512, True) == 512
