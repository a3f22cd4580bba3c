"""Each recipe on the shipped model: what tune trains and what a plain TRL script with the same arguments trains are the same.

The scripts in `plain/` are written out by hand, with literal arguments, and import nothing of nothing_tune. Compared are the
losses, gradient norms and evaluation losses of every step, unrounded, and the digest of the adapter that is handed over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run, write_json
from nothing_tune.engine.handover import digest
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe
from tests.engine.support import events, train

PLAIN = Path(__file__).parent / "plain"
STEPS = [
    6,  # evaluated and saved at 5 and at the end; the better of the two is handed over
    pytest.param(-1, marks=pytest.mark.slow, id="whole"),  # as many as the recipe's epochs are
]
RECIPES = {
    "quickstart": "quickstart",
    "nothing-gpt": "nothing_gpt",
    "marco": "marco",
    "function-calling": "function_calling",
    "templates/quick-start-7b": "quick_start_7b",
    "templates/memory-optimized-13b": "memory_optimized_13b",
    "templates/high-quality-7b": "high_quality_7b",
}

LONG = ("templates/", "function-calling", "nothing-gpt")
"""Recipes that take half a minute or more; make test-full has them."""


def test_every_script_belongs_to_a_recipe_and_stands_alone() -> None:
    scripts = sorted(PLAIN.glob("*.py"))
    assert [s.stem for s in scripts] == sorted(RECIPES.values())
    assert not [s for s in scripts if "nothing_tune" in s.read_text(encoding="utf-8")]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=pytest.mark.slow) if r.startswith(LONG) else r for r in RECIPES]
)
def test_tune_trains_what_plain_trl_trains(recipe: str, steps: int, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    plain = tmp_path / "plain"
    plain.mkdir()
    script = subprocess.run(
        [sys.executable, str(PLAIN / f"{RECIPES[recipe]}.py"), str(plain), str(steps)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert script.returncode == 0, script.stderr[-3000:]
    expected = json.loads((plain / "losses.json").read_text())

    run = Run(tmp_path / "run-tune")
    run.path.mkdir()
    loaded = load_recipe(recipe, gpu="cpu", with_=["models/nano"], overrides=[f"training.max_steps={steps}"])
    write_json(run.path / "plan.json", make_plan(loaded).to_json())
    result = train(run)
    assert result["state"] == "done", result["error"]

    logs = [e["metrics"] for e in events(run, "log")]
    assert len(expected["loss"]) == (steps if steps > 0 else result["step"])
    assert [m["loss"] for m in logs] == expected["loss"]
    assert [m["grad_norm"] for m in logs] == expected["grad_norm"]
    assert [e["metrics"]["eval_loss"] for e in events(run, "eval")] == expected["eval_loss"]
    assert result["metrics"]["best_eval_loss"] == min(expected["eval_loss"])
    assert result["digest"] == digest(run.adapter) == digest(plain / "adapter")
