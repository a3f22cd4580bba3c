"""Out of memory: the run goes on with smaller micro batches, and has seen the same samples at its end."""

from __future__ import annotations

from typing import Any

import pytest

from nothing_tune.artifacts import Run
from tests.faults.harness import Place, events, finished, said, tail, together
from tests.faults.test_exactness import RANKS

BIG = {"training.per_device_train_batch_size": 4, "training.gradient_accumulation_steps": 1}


def too_many(rows: int, training: bool = True) -> dict[str, Any]:
    """Out of memory where a micro batch has more than `rows` rows."""
    return {"point": "loss", "do": "out-of-memory", "rows": rows, "training": training, "rank": -1}


def pair(place: Place, plan: dict[str, Any], *faults: dict[str, Any]) -> tuple[Run, Run]:
    """A run that nobody disturbs, and one with `faults`; both are done."""
    runs = place.run("whole", **plan), place.run("run", **plan)
    assert together(lambda r: place.zygote.train(r, *(faults if r is runs[1] else ())), runs) == [0, 0], tail(runs[1])
    return runs


@pytest.mark.parametrize("rehearse", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_in_training(place: Place, rehearse: bool) -> None:
    plan = {**BIG, "monitor": {"rehearse": rehearse}}
    whole, run = pair(place, plan, too_many(1))
    same(run, whole)
    assert [e["what"] for e in events(run, "adjust")] == [
        "micro batch 4 -> 2, accumulation 1 -> 2",
        "micro batch 2 -> 1, accumulation 2 -> 4",
    ]


def test_in_the_middle(place: Place) -> None:
    whole, run = pair(place, BIG, {**too_many(2), "calls": [4, 5]})
    same(run, whole)


def test_in_evaluation(place: Place) -> None:
    plan = {"training.eval_strategy": "steps", "training.eval_steps": 2, "training.per_device_eval_batch_size": 4}
    whole, run = pair(place, plan, too_many(1, training=False))
    assert finished(run) == finished(whole)  # evaluation touches no weight
    assert "micro batch" not in said(run) or "evaluation" in said(run)
    have, want = (run.result() or {})["metrics"], (whole.result() or {})["metrics"]
    assert have["eval_loss"] == pytest.approx(want["eval_loss"], rel=1e-3)


def test_what_was_changed_stays_changed(place: Place) -> None:
    whole, run = place.run("whole", **BIG), place.run("run", **BIG)
    assert place.zygote.train(whole) == 0
    stop = {"point": "step", "step": 5, "do": "signal", "number": 15}
    assert place.zygote.train(run, too_many(2), stop) == 75, (run.result(), tail(run))
    assert place.zygote.train(run, too_many(2)) == 0, tail(run)
    same(run, whole)
    assert len(events(run, "adjust")) == 1


def test_when_nothing_helps(place: Place) -> None:
    run = place.run("run", **BIG)
    assert place.zygote.train(run, too_many(0)) == 71, (run.result(), tail(run))
    assert "out of memory" in said(run)


def test_for_real(place: Place) -> None:
    limit = {"point": "forward", "nth": 1, "do": "memory-limit", "mib": 700}
    eat = {"point": "loss", "do": "eat-memory", "mib_per_row": 256}
    whole, run = pair(place, BIG, limit, eat)
    same(run, whole)
    assert events(run, "adjust")


@pytest.mark.slow
def test_two_ranks(place: Place) -> None:
    plan = {**RANKS, "training.per_device_train_batch_size": 2}
    whole, run = pair(place, plan, {**too_many(1), "rank": 1})
    same(run, whole)


def same(run: Any, whole: Any) -> None:
    """The same steps, epochs and samples, and nearly the same loss."""
    finished(run)
    have, want = run.result() or {}, whole.result() or {}
    assert (have["step"], have["epoch"]) == (want["step"], want["epoch"])
    assert have["metrics"]["num_tokens"] == want["metrics"]["num_tokens"]
    assert have["metrics"]["last_loss"] == pytest.approx(want["metrics"]["last_loss"], rel=1e-2)
