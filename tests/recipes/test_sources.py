"""The recipes equal the source documents: each value of tests/sources/*.yaml against the resolved plan."""

from __future__ import annotations

from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nothing_tune.plan import make_plan
from nothing_tune.plan.model import Plan
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.model import lookup

pytestmark = pytest.mark.engine  # takes seconds

SOURCES = Path(__file__).parents[1] / "sources"
MISSING = object()

COMPARED = {"nothing-gpt": 51, "marco": 122, "function-calling": 31, "templates": 74}
"""How many values each document gives; a value that is taken out of a table has to be taken out here too."""


@cache
def plan_of(recipe: str, gpu: str, scenario: str | None) -> Plan:
    return make_plan(load_recipe(recipe, gpu=gpu, scenario=scenario))


def cases(document: str) -> list[tuple[str, str, str | None, dict[str, Any]]]:
    """(recipe, GPU, scenario, entry) of every value that the document gives."""
    data = yaml.safe_load((SOURCES / f"{document}.yaml").read_text(encoding="utf-8"))
    return [
        (table.get("recipe", data.get("recipe")), gpu, table.get("scenario"), entry)
        for table in data["tables"]
        for gpu in table["gpus"]
        for entry in table["values"]
    ]


def ours(plan: Plan, key: str) -> Any:
    """Our value at `key` of a source table."""
    if key == "global_batch":
        training = plan.values["training"]
        return training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    if key == "trainable_dtype":
        return plan.trainable_dtype
    return lookup(plan.values, key, MISSING)


@pytest.mark.parametrize("document", COMPARED)
def test_recipe_equals_its_source(document: str) -> None:
    compared = 0
    wrong = []
    for recipe, gpu, scenario, entry in cases(document):
        if "ours" in entry:
            assert entry["note"], f"{entry['key']}: a value that differs on purpose says why"
            assert entry["ours"] != entry["value"]
        expected = entry.get("ours", entry["value"])
        found = ours(plan_of(recipe, gpu, scenario), entry["key"])
        compared += 1
        if found is MISSING or found != expected or isinstance(found, bool) != isinstance(expected, bool):
            shown = "nothing" if found is MISSING else repr(found)
            where = f"{recipe} on {gpu}" + (f" with {scenario}" if scenario else "")
            wrong.append(f"{where}: {entry['key']} is {shown}, the source gives {expected!r} ({entry['source']})")
    assert not wrong, "\n".join(wrong)
    assert compared == COMPARED[document]


@pytest.mark.parametrize("document", COMPARED)
def test_every_entry_says_where_it_stands(document: str) -> None:
    for *_, entry in cases(document):
        assert entry["source"]
        assert set(entry) <= {"key", "value", "source", "source_name", "ours", "note"}


def test_step_arithmetic_of_the_nothing_gpt_source() -> None:
    """Its "Current Training Math": 13,482 rows / 16 = 843 steps an epoch, 1,686 in all, an evaluation every 24 %."""
    plan = plan_of("nothing-gpt", "l4", None)
    steps = ceil(13_482 / ours(plan, "global_batch"))
    assert steps == 843
    assert steps * plan.values["training"]["num_train_epochs"] == 1_686
    assert round(plan.values["training"]["eval_steps"] / steps * 100) == 24
