"""What the plan holds of saving, watching and launching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.errors import PlanError
from nothing_tune.plan import Plan, kwargs, make_plan
from nothing_tune.recipe import load_recipe


def plan(*overrides: str, **how: Any) -> Plan:
    return make_plan(load_recipe("quickstart", gpu="cpu", overrides=overrides, **how))


def test_defaults() -> None:
    made = plan()
    saving = {k: made.checkpoint[k] for k in ("max_loss_minutes", "max_overhead", "deadline_s", "on_commit")}
    assert saving == {"max_loss_minutes": 10, "max_overhead": 0.01, "deadline_s": None, "on_commit": None}
    assert made.monitor == kwargs.WATCHED
    assert (made.launch, made.world_size) == ({"processes": 1}, 1)
    assert not any(key.startswith("SFTConfig.") and "processes" in why for key, why in made.why.items())


def test_a_recipe_that_says_nothing_has_the_same(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("model: {name_or_path: gpt2}\npeft: {peft_type: LORA}\n")
    bare = make_plan(load_recipe(tmp_path / "bare.yaml", gpu="cpu"))
    assert bare.monitor == plan().monitor
    assert {k: v for k, v in bare.checkpoint.items() if k not in ("best", "keep")} == {
        k: v for k, v in plan("~training.greater_is_better").checkpoint.items() if k not in ("best", "keep")
    }


def test_null_switches_off() -> None:
    made = plan("monitor=null", "checkpoint=null")
    assert made.checkpoint["max_loss_minutes"] is None
    assert made.monitor == {**kwargs.WATCHED, "loss_spike": None, "rehearse": False, "hang_minutes": None}
    assert plan(scenario="debug").checkpoint["max_loss_minutes"] is None


def test_deadline_is_text_in_the_recipe_and_seconds_in_the_plan() -> None:
    made = plan("checkpoint.deadline=23h50m", "checkpoint.on_commit=sync -f .")
    assert made.values["checkpoint"]["deadline"] == "23h50m"
    assert (made.checkpoint["deadline_s"], made.checkpoint["on_commit"]) == (85800, "sync -f .")


def test_rows_of_a_step_stay_over_processes() -> None:
    words = ("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=4")
    made = plan(*words, "launch.processes=2")
    written, solved = made.values["training"], made.training
    assert (written["per_device_train_batch_size"], written["gradient_accumulation_steps"]) == (4, 4)
    assert (solved["per_device_train_batch_size"], solved["gradient_accumulation_steps"]) == (4, 2)
    assert made.world_size == 2
    assert made.why["SFTConfig.gradient_accumulation_steps"] == (
        "derived: 4 x 2 x 2 processes = the 16 rows a step that are written"
    )
    assert "SFTConfig.per_device_train_batch_size" not in made.why


def test_rows_that_cannot_be_shared() -> None:
    with pytest.raises(PlanError) as caught:
        plan("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=4", "launch.processes=3")
    assert "16 rows a step" in str(caught.value)
    assert "by 3 processes" in str(caught.value)
    assert "set by: layer 6 of 6: command line" in str(caught.value)


def test_a_plan_of_an_older_version_is_read() -> None:
    old = json.loads(json.dumps(plan().to_json()))
    del old["launch"]
    assert Plan.from_json(old).launch == {"processes": 1}
