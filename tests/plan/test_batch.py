"""Rows at once may change, rows a step may not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nothing_tune.errors import PlanError
from nothing_tune.plan import batch


def plan(micro: int | None = None, accumulation: int | None = None, **more: Any) -> dict[str, Any]:
    values = {batch.MICRO: micro, batch.ACCUMULATION: accumulation}
    return {**{k: v for k, v in values.items() if v is not None}, **more}


@pytest.mark.parametrize(
    ("training", "what"),
    [
        (plan(8, 2), "micro batch 8 -> 4, accumulation 2 -> 4"),
        (plan(6, 1), "micro batch 6 -> 3, accumulation 1 -> 2"),
        (plan(5, 1), "micro batch 5 -> 1, accumulation 1 -> 5"),
        (plan(7, 3), "micro batch 7 -> 3, accumulation 3 -> 7"),
        (plan(2, 5), "micro batch 2 -> 1, accumulation 5 -> 10"),
        (plan(), "micro batch 8 -> 4, accumulation 1 -> 2"),
        (plan(1, 4, activation_checkpointing=False), "activation checkpointing off -> on"),
        (plan(1, 4, gradient_checkpointing=False), "activation checkpointing off -> on"),
    ],
)
def test_the_next_rung_of_training(training: dict[str, Any], what: str) -> None:
    rung = batch.smaller(training, "training")
    assert rung is not None
    assert rung["what"] == what
    after = {**training, **rung["training"]}
    assert after[batch.MICRO] * after[batch.ACCUMULATION] == (training.get(batch.MICRO) or 8) * (
        training.get(batch.ACCUMULATION) or 1
    )


@pytest.mark.parametrize(
    "training", [plan(1, 4, activation_checkpointing=True), plan(1, 4, gradient_checkpointing=True), plan(1, 1)]
)
def test_nothing_is_left_at_one_row_with_checkpointing(training: dict[str, Any]) -> None:
    """TRL recomputes activations where nothing is said."""
    assert batch.smaller(training, "training") is None


def test_checkpointing_keeps_the_arguments_that_are_written() -> None:
    rung = batch.smaller(plan(1, 1, activation_checkpointing=False), "training")
    assert rung is not None
    assert rung["training"] == {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
    }
    written = {"activation_checkpointing": False, "activation_checkpointing_kwargs": {"every_n_layers": 2}}
    rung = batch.smaller(plan(1, 1, **written), "training")
    assert rung is not None
    assert rung["training"] == {"activation_checkpointing": True}


def test_the_evaluation_has_a_ladder_of_its_own() -> None:
    training = plan(4, 4)
    seen = []
    while rung := batch.smaller(training, "evaluation"):
        assert set(rung["training"]) == {batch.EVALUATION}
        training |= rung["training"]
        seen.append(rung["what"])
    assert seen == ["evaluation batch 8 -> 4", "evaluation batch 4 -> 2", "evaluation batch 2 -> 1"]


def test_loading_has_no_rung() -> None:
    assert batch.smaller(plan(8, 1), "loading") is None


@given(st.integers(1, 64), st.integers(1, 64))
def test_every_rung_at_least_halves_and_keeps_the_rows_of_a_step(micro: int, accumulation: int) -> None:
    training = plan(micro, accumulation, activation_checkpointing=True)
    for _ in range(8):
        rung = batch.smaller(training, "training")
        if rung is None:
            break
        after = training | rung["training"]
        assert after[batch.MICRO] * 2 <= training[batch.MICRO]
        assert after[batch.MICRO] * after[batch.ACCUMULATION] == micro * accumulation
        training = after
    assert training[batch.MICRO] == 1


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16))
def test_ranks_share_the_rows_of_a_step(micro: int, accumulation: int, world: int) -> None:
    rows = micro * accumulation
    if rows % world:
        with pytest.raises(PlanError):
            batch.spread(plan(micro, accumulation), world)
        return
    out = batch.spread(plan(micro, accumulation), world)
    assert out[batch.MICRO] * out[batch.ACCUMULATION] * world == rows
    assert out[batch.MICRO] <= micro
    if accumulation % world == 0:
        assert out[batch.MICRO] == micro


def test_rows_that_cannot_be_shared_are_refused_with_the_ways_out() -> None:
    with pytest.raises(PlanError) as caught:
        batch.spread(plan(3, 2), 4)
    problem = caught.value.problems[0]
    assert problem.key == "training.gradient_accumulation_steps"
    assert problem.what == "6 rows a step (micro batch 3 x accumulation 2) cannot be shared evenly by 4 processes"
    assert problem.hint == "make it a multiple of 4, or train with 1, 2, 3, 6 processes"


@pytest.mark.parametrize(
    ("training", "changes", "want"),
    [
        (plan(8, 2), [], (8, 2)),
        (plan(8, 2), [plan(4, 4), plan(2, 8)], (2, 8)),
        (plan(8, 1), [plan(4, 4)], (4, 2)),  # planned anew for two processes since
        (plan(2, 2), [plan(4, 4)], (2, 2)),
        (plan(3, 3), [plan(2, 8)], (1, 9)),
    ],
)
def test_what_was_changed_is_kept_and_the_rows_of_a_step_too(
    training: dict[str, Any], changes: list[dict[str, Any]], want: tuple[int, int]
) -> None:
    out = batch.adjusted(training, changes)
    assert (out[batch.MICRO], out[batch.ACCUMULATION]) == want


def test_other_changes_lie_over_the_plan() -> None:
    out = batch.adjusted(plan(1, 4, lr=1), [{"activation_checkpointing": True}, {batch.EVALUATION: 1}])
    assert out == plan(1, 4, lr=1, activation_checkpointing=True) | {batch.EVALUATION: 1}
