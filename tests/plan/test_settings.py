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


def test_data_has_every_default(tmp_path: Path) -> None:
    usual = {k: v for k, v in kwargs.DATA.items() if k != "split_seed"} | {"seed": 42, "truncation": "right"}
    (tmp_path / "bare.yaml").write_text("data: {train: rows.jsonl, transcript: {speaker: Ann}}\n")
    bare = make_plan(load_recipe(tmp_path / "bare.yaml", gpu="cpu"))
    assert bare.data == {
        **usual,
        "train": "rows.jsonl",
        "transcript": {"speaker": "Ann", "turns": 8, "stride": None},
    }
    base = make_plan(load_recipe(None, gpu="cpu"))
    assert base.data == {**usual, "eval": 0.1, "sample": {"train": None, "eval": None, "prompts": None}}
    assert make_plan(load_recipe(None, gpu="cpu", overrides=["data.split_seed=0"])).data["seed"] == 0


@pytest.mark.parametrize(
    ("words", "policy", "why"),
    [
        ([], "right", "derived: long rows keep their beginning, as in TRL"),
        (["training.truncation_mode=keep_end"], "left", "derived: training.truncation_mode keep_end keeps the end"),
        (
            ["training.packing=true", "training.packing_strategy=bfd_split"],
            "split",
            "derived: training.packing_strategy bfd_split splits long rows",
        ),
        (["training.packing_strategy=bfd_split"], "right", "derived: long rows keep their beginning, as in TRL"),
        (["data.truncation=drop"], "drop", "command line"),
    ],
)
def test_truncation_follows_upstreams_options(words: list[str], policy: str, why: str) -> None:
    made = plan(*words)
    assert (made.data["truncation"], made.values["data"]["truncation"]) == (policy, policy)
    assert made.why["data.truncation"] == why
    assert "truncation_mode" not in made.training


def test_padding_free_without_packing_leaves_the_length_to_tune() -> None:
    made = plan("training.padding_free=true")
    assert (made.training["max_length"], made.values["training"]["max_length"]) == (None, 512)
    assert made.why["SFTConfig.max_length"] == (
        "derived: tune keeps rows to training.max_length 512 itself, before TRL sees them; TRL takes no length together "
        "with padding_free"
    )
    packed = plan("training.padding_free=true", "training.packing=true")
    assert (packed.training["max_length"], packed.training["eval_packing"]) == (512, False)
    assert "eval_packing" not in plan("training.eval_packing=true").training


def test_a_plan_of_an_older_version_is_read() -> None:
    old = json.loads(json.dumps(plan().to_json()))
    del old["launch"]
    assert Plan.from_json(old).launch == {"processes": 1}
    with pytest.raises(ValueError, match="plan version 3 is newer than 2"):
        Plan.from_json({**old, "version": 3})


def test_a_plan_of_version_1_chooses_its_rows_as_then() -> None:
    made = plan("data.dedupe=near", "data.max_samples=5")
    old = json.loads(json.dumps(made.to_json())) | {"version": 1}
    old["data"] = {
        k: old["data"][k] for k in ("train", "eval", "sample", "format", "max_samples", "chat_template", "seed")
    }
    old["values"]["data"] = {"train": old["data"]["train"], "eval": old["data"]["eval"], "max_samples": 5}
    read = Plan.from_json(old)
    assert read.version == 1
    assert read.data == {**made.data, "dedupe": "none", "leakage": "keep"}
    assert made.of_version(2) is made
    again = made.of_version(1)
    assert (again.version, again.data) == (1, read.data)
