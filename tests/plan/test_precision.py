"""Precision follows the hardware, and says why."""

from __future__ import annotations

import pytest

from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe

CASES = [
    # gpu, method, overrides -> bf16, fp16, use_cpu, dtype, compute dtype, trainable dtype
    ("l4", "qlora", [], (True, False, False, "bfloat16", "bfloat16", None)),
    ("t4", "qlora", [], (False, True, False, "float16", "float16", "float32")),
    ("v100", "lora", [], (False, True, False, "float16", None, "float32")),
    ("cpu", "qlora", [], (False, False, True, "float32", "float32", None)),
    ("mps", "lora", [], (False, False, False, "float32", None, None)),
    ("l4", "full", [], (True, False, False, "float32", None, None)),
    ("l4", "full", ["model.dtype=bfloat16"], (True, False, False, "bfloat16", None, None)),
    ("l4", "qlora", ["training.fp16=true"], (False, True, False, "float16", "float16", "float32")),
    ("l4", "qlora", ["training.bf16=false", "training.fp16=false"], (False, False, False, "float32", "float32", None)),
    ("a100-80gb", "qlora", [], (True, False, False, "bfloat16", "bfloat16", None)),
    ("cuda", "qlora", [], (False, True, False, "float16", "float16", "float32")),
]  # fmt: skip


@pytest.mark.parametrize(("gpu", "method", "overrides", "expected"), CASES)
def test_derived_precision(gpu: str, method: str, overrides: list[str], expected: tuple[object, ...]) -> None:
    recipe = load_recipe(f"methods/{method}", gpu=gpu, overrides=overrides)
    plan = make_plan(recipe)
    found = (
        plan.training["bf16"],
        plan.training["fp16"],
        plan.training["use_cpu"],
        plan.model["init"]["dtype"],
        (plan.quantization or {}).get("bnb_4bit_compute_dtype"),
        plan.trainable_dtype,
    )
    assert found == expected


def test_derived_values_carry_their_rule() -> None:
    plan = make_plan(load_recipe("methods/qlora", gpu="t4"))
    assert plan.why["training.fp16"] == "derived: t4 has no bfloat16"
    assert plan.why["quantization.bnb_4bit_compute_dtype"] == "derived: the training precision: t4 has no bfloat16"
    written = make_plan(load_recipe("methods/qlora", gpu="l4", overrides=["training.bf16=true"]))
    assert written.why["training.bf16"] == "command line"


def test_a_plan_survives_its_json() -> None:
    import json

    plan = make_plan(load_recipe("nothing-gpt", gpu="l4"))
    assert type(plan).from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_managed_settings_do_not_reach_the_trainer() -> None:
    plan = make_plan(load_recipe("nothing-gpt", gpu="l4"))
    assert (plan.values["training"]["report_to"], plan.training["report_to"]) == ("wandb", "none")
    assert (plan.checkpoint["best"], plan.training["load_best_model_at_end"]) == (True, False)
