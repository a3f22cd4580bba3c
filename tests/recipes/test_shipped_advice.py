"""Every recipe that ships, on its own GPUs: free of warnings, or with the reason written in it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from nothing_tune.plan import Plan, make_plan
from nothing_tune.plan.advice import Facts, advise, settled
from nothing_tune.plan.architecture import Shape, shape
from nothing_tune.plan.maths import maths
from nothing_tune.plan.memory import estimate
from nothing_tune.plan.rows import GIVEN, Rows
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import find_recipe, names
from nothing_tune.run.architecture import config_of

OWN: dict[str, tuple[str, ...]] = {
    "function-calling": ("rtx-3060", "rtx-4070-ti", "rtx-4080", "rtx-4090", "l4"),
    "marco": ("t4", "l4", "a100-40gb", "a100-80gb"),
    "nothing-gpt": ("l4", "t4"),
    "quickstart": ("cpu",),
    "templates/high-quality-7b": ("a100-40gb",),
    "templates/memory-optimized-13b": ("t4",),
    "templates/quick-start-7b": ("a100-40gb",),
}
"""The GPUs of each recipe: those of its head and of its `gpus` block."""
ROWS: dict[str, Rows] = {
    "function-calling": Rows(GIVEN, train=111_829, eval=1_130, sequences=13_000, tokens=50_000_000),
    "marco": Rows(GIVEN, train=16_122, eval=1_791),
    "nothing-gpt": Rows(GIVEN, train=13_482, eval=1_498),
    "quickstart": Rows(GIVEN, train=316, eval=49),
    "templates/high-quality-7b": Rows(GIVEN, train=10_000, eval=1_111),
    "templates/memory-optimized-13b": Rows(GIVEN, train=10_000, eval=1_111),
    "templates/quick-start-7b": Rows(GIVEN, train=10_000, eval=1_111),
}
ADVISED: dict[str, list[str]] = {
    "function-calling": ["epochs-for-much-data"],
    "marco": ["evaluation-costs"],
    "nothing-gpt": ["warmup-share", "rank-without-rslora"],
    "templates/high-quality-7b": ["evaluation-batch-small"],
}
"""What is advised where the memory is not known: values of the sources, which the recipes keep."""
ACCEPTED = {"quickstart": ["no-dropout"], "templates/high-quality-7b": ["epochs-above-three"]}
CASES = [(name, gpu) for name, gpus in OWN.items() for gpu in gpus]


@cache
def planned(name: str, gpu: str) -> tuple[Plan, Shape]:
    plan = make_plan(load_recipe(name, gpu=gpu))
    config, source = config_of(plan, fetch=False)
    assert config is not None, source
    return plan, shape(config)


def facts(name: str, gpu: str, rows: Rows, memory: bool) -> Facts:
    plan, known = planned(name, gpu)
    told: dict[str, Any] = {}
    if memory:
        off = Plan.from_json({**plan.to_json(), "training": {**plan.training, "activation_checkpointing": False}})
        batch = (plan.training["per_device_train_batch_size"], plan.training["max_length"])
        told = {"memory": estimate(known, plan, *batch), "without_checkpointing": estimate(known, off, *batch)}
    return Facts(
        plan=plan,
        rows=rows,
        maths=maths(rows, plan),
        shape=known,
        hours=10.0,
        disk_free=100 * 10**9,
        checkpoint_bytes=10**9,
        cpus=8,
        **told,
    )


def test_every_recipe_and_gpu_is_here() -> None:
    assert sorted(OWN) == sorted(ROWS) == sorted(names("recipes"))
    for name, own in OWN.items():
        text = find_recipe(name).read_text(encoding="utf-8")
        block = re.search(r"^gpus:.*\n((?: .*\n|\n)*)", text, re.MULTILINE)
        named = set(re.findall(r"^  ([\w-]+):$|^  ([\w-]+):  +#", block[1], re.MULTILINE) if block else [])
        written = {one or other for one, other in named} | set(re.findall(r"--gpu ([\w-]+)", text))
        assert written <= set(own), name


@pytest.mark.parametrize(("name", "gpu"), CASES, ids=lambda v: v.replace("/", "-"))
def test_no_warning_without_its_reason(name: str, gpu: str) -> None:
    plan, _ = planned(name, gpu)
    for memory in (False, True):
        open_, accepted = settled(advise(facts(name, gpu, ROWS[name], memory)), plan.values)
        assert [(one.rule, one.why) for one in open_ if one.severity != "advice"] == []
        assert [one.rule for one, _ in accepted] == ACCEPTED.get(name, [])
        if not memory:
            assert [one.rule for one in open_] == ADVISED.get(name, [])


def test_every_reason_is_needed() -> None:
    for name in OWN:
        reasons = planned(name, OWN[name][0])[0].values["advice"]["accept"] or {}
        assert sorted(reasons) == ACCEPTED.get(name, [])
