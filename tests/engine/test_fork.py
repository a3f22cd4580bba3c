"""Children of a run: one that goes on is exact where nothing changes, and follows what does; one that starts anew has the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from nothing_tune import run as runs
from nothing_tune.artifacts import Run
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe
from tests.engine.support import events, losses, train

RECIPE = """\
layers: [base/qlora, methods/lora]
name: tiny
model: {{name_or_path: {model}, dtype: float32}}
data: {{train: {rows}, eval: 0.2}}
peft: {{r: 4, lora_alpha: 8, lora_dropout: 0.1}}
training:
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 2
  max_steps: 6
  learning_rate: 1e-3
  lr_scheduler_type: constant
  warmup_steps: 0
  logging_steps: 1
  eval_steps: 2
  save_steps: 2
  save_total_limit: 4
  max_length: 128
  activation_checkpointing: false
"""


@pytest.fixture
def parent(tmp_path: Path, model_dir: Path, rows_file: Path) -> Run:
    """Six steps, all checkpoints kept."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=model_dir, rows=rows_file))
    recipe = load_recipe(path, gpu="cpu")
    run = runs.prepare(recipe, make_plan(recipe), root=tmp_path / "runs", name="parent")
    assert train(run)["state"] == "done"
    return run


def fork(parent: Run, *overrides: str, name: str = "child", **options: Any) -> Run:
    return runs.fork(parent, parent.path.parent, overrides, name=name, **options).run


def inventory(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its time and bytes."""
    return {
        str(p.relative_to(folder)): (os.stat(p).st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


def rates(run: Run) -> dict[int, float]:
    return {e["step"]: e["metrics"]["learning_rate"] for e in events(run, "log") if "learning_rate" in e["metrics"]}


def test_a_child_goes_on(parent: Run) -> None:
    before = inventory(parent.path)
    same = fork(parent, start=4, name="same")
    result = train(same)
    assert result["state"] == "done"
    assert {k: v for k, v in losses(parent).items() if k > 4} == losses(same)
    assert result["digest"] == (parent.result() or {})["digest"]  # bit for bit

    gentle = fork(parent, "training.learning_rate=1e-4", "training.max_steps=8", start=4, name="gentle")
    result = train(gentle)
    assert (result["state"], result["step"]) == ("done", 8)
    assert [e["step"] for e in events(gentle, "resume")] == [4]
    assert sorted(losses(gentle)) == [5, 6, 7, 8]
    assert losses(gentle)[5] == losses(parent)[5]  # of the same rows, before the first gentler step
    assert losses(gentle)[6] != losses(parent)[6]
    assert rates(gentle) == {step: pytest.approx(1e-4) for step in (5, 6, 7, 8)}
    assert inventory(parent.path) == before
    assert runs.verify(gentle).ok


def test_a_child_starts_anew(parent: Run) -> None:
    before = inventory(parent.path)
    still = fork(
        parent, "training.seed=7", "training.learning_rate=1e-12", "training.max_steps=1", start=4, name="still"
    )
    result = train(still)
    assert (result["state"], result["step"]) == ("done", 1)
    assert events(still, "resume") == []
    weights = [
        load_file(folder / "adapter_model.safetensors")
        for folder in (parent.checkpoints / "checkpoint-4", still.adapter)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-9 for name in weights[0])

    again = fork(parent, name="again", restart=True)
    assert train(again)["step"] == 6
    assert sorted(losses(again)) == list(range(1, 7))
    assert losses(again)[1] < losses(parent)[1]  # of the same rows, with the weights of step 6
    assert inventory(parent.path) == before
    assert runs.verify(again).ok
