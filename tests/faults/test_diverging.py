"""Losses, gradients and weights that are not finite: nothing of them is ever committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nothing_tune.artifacts import Run
from tests.faults.harness import METHODS, Place, complete, events, finished, problem, resumed, tail
from tests.faults.test_exactness import RANKS

SAVED = {"training.save_steps": 1, "checkpoint.keep": 9}


def weights_are_finite(run: Run) -> bool:
    """Whether every tensor in every complete checkpoint is finite."""
    from safetensors.numpy import load_file

    paths: list[Path] = [p for s in complete(run) for p in (run.checkpoints / f"checkpoint-{s}").glob("*.safetensors")]
    assert paths
    return all(np.isfinite(tensor).all() for path in paths for tensor in load_file(path).values())


def nan_losses(first: int, last: int) -> dict[str, Any]:
    """The loss of micro batches `first` to `last` (from 1) is NaN."""
    return {"point": "loss", "calls": [first, last + 1], "when": "after", "do": "scale-loss", "by": "nan"}


@pytest.mark.parametrize(("method", "clip"), [("lora", 1.0), ("full", 0.0)], ids=["lora, clipped", "full, not clipped"])
def test_a_loss_that_stays_nan(place: Place, method: str, clip: float) -> None:
    run = place.run("run", **METHODS[method], **SAVED, **{"training.max_grad_norm": clip})
    assert place.zygote.train(run, nan_losses(7, 99)) == 70, tail(run)
    assert weights_are_finite(run)
    assert "row" in problem(run)["what"] + problem(run)["hint"]
    assert "learning_rate" in problem(run)["hint"]
    told = events(run, "non_finite")
    assert [e["step"] for e in told] == [4, 5, 6]
    assert all(len(e["rows"]) == 4 for e in told)


def test_the_run_goes_on_where_it_was_whole(place: Place) -> None:
    run = place.run("run", **SAVED)
    assert place.zygote.train(run, nan_losses(7, 99)) == 70, tail(run)
    resumed(place, run)
    assert weights_are_finite(run)


def test_a_single_step_is_left_out(place: Place) -> None:
    run = place.run("run", **SAVED)
    assert place.zygote.train(run, nan_losses(7, 7)) == 0, tail(run)
    finished(run)
    assert [e["step"] for e in events(run, "non_finite")] == [4]
    assert weights_are_finite(run)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_weights_that_are_nan(place: Place, method: str) -> None:
    run = place.run("run", **METHODS[method], **SAVED)
    assert place.zygote.train(run, {"point": "forward", "nth": 7, "do": "nan-weights"}) == 70, tail(run)
    assert complete(run)[-1] == 3
    assert weights_are_finite(run)
    assert not run.adapter.exists()


@pytest.mark.slow
def test_two_ranks_one_of_them_nan(place: Place) -> None:
    run = place.run("run", **SAVED, **RANKS)
    assert place.zygote.train(run, {**nan_losses(4, 99), "rank": 1}) == 70, tail(run)
    assert weights_are_finite(run)
