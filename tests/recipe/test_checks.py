"""The checks themselves, on layers made by hand: what the table in `broken.yaml` does not show."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from nothing_tune.errors import Place
from nothing_tune.recipe import checks, load_recipe, merge, secret, values
from nothing_tune.recipe.library import names
from nothing_tune.recipe.model import Layer
from nothing_tune.recipe.ranges import Range


def messages(*layers: dict[str, Any]) -> list[str]:
    stack = [Layer(f"layer-{n}", layer) for n, layer in enumerate(layers, 1)]
    merged, origins = merge.merge(stack)
    return [p.what for p in checks.check(merged, origins, tuple(stack))]


@pytest.mark.parametrize("gpu", ["cpu", "t4", "l4"])
@pytest.mark.parametrize("recipe", [*names("recipes"), "base/qlora", *(f"methods/{m}" for m in names("methods"))])
def test_what_ships_has_no_problem_and_no_advice(recipe: str, gpu: str) -> None:
    if (recipe, gpu) == ("methods/loftq", "cpu"):
        gpu = "a100-40gb"  # PEFT computes LoftQ on CUDA only
    assert load_recipe(recipe, gpu=gpu).advice == ()


def test_a_bare_no_is_the_word() -> None:
    assert checks.as_written("training.eval_strategy", False) == "no"
    assert checks.as_written("training.packing", False) is False
    assert checks.as_written("training.include_num_input_tokens_seen", False) is False
    assert checks.as_written("data.eval", False) is False


def test_keys_of_a_replaced_method_are_judged_by_that_method() -> None:
    lora = Layer("one", {"peft": {"peft_type": "LORA", "r": 8}})
    vectors = Layer("two", {"peft": {"peft_type": "IA3", "target_modules": ["k_proj"]}}, replace=("peft",))
    merged, origins = merge.merge([lora, vectors])
    assert checks.check(merged, origins, (lora, vectors)) == []


def test_a_layer_without_a_method_is_judged_by_the_one_that_wins() -> None:
    assert messages({"peft": {"r": 8}}, {"peft": {"peft_type": "LORA"}}) == []
    assert messages({"peft": {"d_initial": 0.1}}, {"peft": {"peft_type": "LORA"}}) == [
        "peft.d_initial is not an option of LORA (peft 0.21.2)"
    ]


def test_blocks_take_options_of_any_method_and_interpolations() -> None:
    block = {"peft": {"d_initial": 0.2, "r": 4}, "training": {"seed": "${data.split_seed}", "eval_strategy": False}}
    assert checks.check_blocks(block, "gpus.l4.", {}) == []
    place = Place("recipe.yaml", 3, 5)
    (problem,) = checks.check_blocks({"gpus": {}}, "gpus.l4.", {"gpus.l4.gpus": place})
    assert problem.place == place
    assert problem.what == "gpus.l4.gpus is not a section of a recipe"


def test_what_is_wrong_by_itself_meets_no_rule() -> None:
    told = messages(
        {"training": {"save_steps": "many", "eval_steps": [1], "load_best_model_at_end": 3, "max_steps": {}}}
    )
    assert len(told) == 4
    assert all("must be" in line for line in told)


@pytest.mark.engine  # takes seconds
@pytest.mark.parametrize(
    "junk",
    [
        None, 3, "x", ["x"], {"x": 1}, float("inf"),
        *(pytest.param(junk, marks=pytest.mark.slow) for junk in (True, 2.5, [], {}, [None], {"x": {"y": []}})),
    ],
)  # fmt: skip
def test_no_value_anywhere_breaks_the_checks(junk: Any) -> None:
    from nothing_tune.recipe.schema import SECTIONS, UPSTREAM
    from nothing_tune.recipe.upstream import options

    kinds = {"training": "SFTConfig", "quantization": "BitsAndBytesConfig", "peft": "LORA"}
    for section in (*SECTIONS, *UPSTREAM):
        checks.check({section: junk}, {}, (Layer("one", {section: junk}),))
        keys = SECTIONS.get(section) or options(kinds[section])
        for key in keys:
            messages({section: {key: junk}})


@pytest.mark.parametrize(
    ("key", "value", "is_secret"),
    [
        ("tracking.notes", "hf_" + "a1B2" * 8, True),
        ("tracking.tags", ["x", "sk-" + "a1B2" * 8], True),
        ("tracking.notes", "0" * 40, True),
        ("model.revision", "0" * 40, False),
        ("data.train", "s3://bucket/key-to-success.jsonl", False),
        ("data.train", "https://user:word@host/x", True),
        ("name", "sk-learn", False),
        ("name", "hf_model", False),
    ],
)
def test_secrets_are_recognised(key: str, value: Any, is_secret: bool) -> None:
    assert (secret.found(key, value) is not None) is is_secret
    if is_secret:
        assert "a1B2" not in secret.masked(value)
        assert "word" not in secret.masked(value)


def test_ranges_read_well() -> None:
    assert str(Range(0, 1, below=True)) == "at least 0 and below 1"
    assert str(Range(0, above=True)) == "above 0"
    assert not Range(0).holds(float("nan"))


def test_types_read_well() -> None:
    assert values.kinds(("bool", "null")) == "true, false or null"
    assert values.kinds(("float",)) == "a number"
    assert values.kinds(("list[str]", "str", "null")) == "a list of texts, a text or null"


def test_near_names() -> None:
    assert values.near("LoRA", ["XLORA", "LORA"]) == ["LORA"]
    assert values.near("adamw", ["grokadamw", "adamw_torch"]) == ["adamw_torch"]
    assert values.near("zzz", ["adamw"]) == []


def test_checks_load_nothing_heavy() -> None:
    code = (
        "import json, sys; from nothing_tune.recipe import load_recipe; load_recipe('marco', gpu='t4');"
        "print(json.dumps([m for m in ('torch', 'transformers', 'trl', 'peft', 'numpy') if m in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []
