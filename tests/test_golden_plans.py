"""What every recipe compiles to on every GPU, kept under review: one file a recipe, the common part and what each GPU changes.

After an intended change: pytest tests/test_golden_plans.py --update-golden, and read the diff.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from nothing_tune.errors import TuneError
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import library_root, names
from nothing_tune.recipe.model import leaves

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

GOLDEN = Path(__file__).parent / "golden"
SECTIONS = ("model", "data", "quantization", "peft", "training", "tracking", "monitor", "checkpoint", "launch")
ABSENT = "(absent)"


def compiled(recipe: str, gpu: str) -> dict[str, Any]:
    """The plan's leaves, without reasons and without what the GPU's data sheet says; or why there is no plan."""
    try:
        plan = make_plan(load_recipe(recipe, gpu=gpu)).to_json()
    except TuneError as error:
        return {"no plan": [p.what for p in error.problems]}
    parts = {key: plan[key] for key in SECTIONS} | {"trainable_dtype": plan["trainable_dtype"]}
    parts["export"] = plan["values"]["export"]
    return {key: _portable(value) for key, value in leaves(parts).items()}


def _portable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(str(library_root()), "<recipes>")
    if isinstance(value, list):
        return [_portable(v) for v in value]
    return value


def folded(plans: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The value of each key that most GPUs share, and for each GPU what it has instead. Lossless: see `unfolded`."""
    made = [p for p in plans.values() if "no plan" not in p]
    keys = sorted({key for plan in made for key in plan})
    common = {}
    for key in keys:
        counted = Counter(repr(plan.get(key, ABSENT)) for plan in made)
        most = counted.most_common(1)[0][0]
        common[key] = next(plan.get(key, ABSENT) for plan in made if repr(plan.get(key, ABSENT)) == most)
    gpus = {}
    for gpu, plan in plans.items():
        if "no plan" in plan:
            gpus[gpu] = plan
        else:
            gpus[gpu] = {k: plan.get(k, ABSENT) for k in keys if repr(plan.get(k, ABSENT)) != repr(common[k])}
    return {"common": {k: v for k, v in common.items() if v != ABSENT}, "gpus": gpus}


def unfolded(golden: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The plan of each GPU that a golden file holds."""
    out = {}
    for gpu, changes in golden["gpus"].items():
        merged = changes if "no plan" in changes else {**golden["common"], **changes}
        out[gpu] = {key: value for key, value in merged.items() if value != ABSENT}
    return out


@pytest.mark.parametrize("recipe", names("recipes"))
def test_plans_are_as_reviewed(recipe: str, pytestconfig: pytest.Config) -> None:
    plans = {gpu: compiled(recipe, gpu) for gpu in names("gpus")}
    path = GOLDEN / f"{recipe.replace('/', '-')}.yaml"
    if pytestconfig.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        text = yaml.safe_dump(folded(plans), sort_keys=False, allow_unicode=True, width=120)
        path.write_text(
            f"# {recipe} on every GPU. Written by test_golden_plans.py --update-golden.\n{text}", encoding="utf-8"
        )
    assert path.is_file(), "a new recipe: pytest tests/test_golden_plans.py --update-golden, and read the file"
    golden = unfolded(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert list(golden) == list(plans)
    for gpu, plan in plans.items():
        changed = {
            key: (golden[gpu].get(key, ABSENT), plan.get(key, ABSENT))
            for key in sorted({*golden[gpu], *plan})
            if golden[gpu].get(key, ABSENT) != plan.get(key, ABSENT)
        }
        assert not changed, f"{recipe} on {gpu}: golden value, value now"


def test_all_recipes_and_gpus_are_seen() -> None:
    assert len(names("recipes")) >= 7
    assert len(names("gpus")) >= 18
    known = {f"{name.replace('/', '-')}.yaml" for name in names("recipes")}
    assert {path.name for path in GOLDEN.glob("*.yaml")} == known
