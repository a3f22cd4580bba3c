"""When a run saves and stops: by the clock, before a deadline, at the best evaluation."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nothing_tune.artifacts import checkpoint, read_json
from nothing_tune.engine import cadence
from tests.engine.support import MakeRun, events, losses, train

NO_STEPS = {"training.save_strategy": "no"}
ALWAYS = {"max_loss_minutes": 1e-6, "max_overhead": 1e9}
KEPT = {"best": False, "metric": "eval_loss", "greater_is_better": False, "keep": 9}


def saved(run: Any) -> list[tuple[int, str]]:
    return [(e["step"], e["reason"]) for e in events(run, "checkpoint")]


def test_the_clock_saves_and_changes_nothing(make_run: MakeRun) -> None:
    plain, timed = make_run("run-plain"), make_run("run-timed", checkpoint={**KEPT, **ALWAYS}, **NO_STEPS)
    expected, result = train(plain), train(timed)
    assert result["digest"] == expected["digest"]
    assert losses(timed) == losses(plain)
    assert [s for s, _ in saved(timed)] == [1, 2, 3, 4, 5, 6]
    assert {why for _, why in saved(timed)} <= {"time", "best"}
    assert read_json(timed.checkpoints / checkpoint.LATEST) == {"step": 6, "path": "checkpoint-6"}


def test_saving_by_the_clock_stays_within_its_budget(make_run: MakeRun) -> None:
    settings = {**KEPT, "max_loss_minutes": 1e-6, "max_overhead": 1e-6}
    run = make_run(checkpoint=settings, **NO_STEPS, **{"training.eval_strategy": "no"})
    train(run)
    assert saved(run) == [(1, "time")]  # what it costs is known after the first
    [told] = [e["what"] for e in events(run, "warning") if "holds the training up" in e["what"]]
    assert "minutes instead of every 1e-06" in told


def test_nothing_is_saved_by_the_clock_where_that_is_switched_off(make_run: MakeRun) -> None:
    run = make_run(checkpoint={**KEPT, "max_loss_minutes": None}, **NO_STEPS, **{"training.eval_strategy": "no"})
    assert train(run)["state"] == "done"
    assert saved(run) == []


def test_the_best_evaluation_is_saved_whatever_save_steps_says(make_run: MakeRun) -> None:
    run = make_run(checkpoint=KEPT, **{"training.save_steps": 5, "training.learning_rate": 5e-3})
    train(run)
    evals = {e["step"]: e["metrics"]["eval_loss"] for e in events(run, "eval")}
    best_so_far = [s for s in evals if all(evals[s] < evals[o] for o in evals if o < s)]
    assert best_so_far
    assert set(best_so_far) <= {s for s, _ in saved(run)}
    assert (5, "steps") in saved(run)


def test_what_is_due_at_the_end_of_an_epoch_is_in_one_checkpoint(make_run: MakeRun) -> None:
    run = make_run(
        checkpoint={**KEPT, **ALWAYS},
        **NO_STEPS,
        **{"training.max_steps": -1, "training.num_train_epochs": 1, "training.eval_strategy": "epoch"},
    )
    train(run)
    steps = [s for s, _ in saved(run)]
    assert steps == sorted(set(steps))
    history = read_json(run.checkpoints / f"checkpoint-{steps[-1]}" / "trainer_state.json")["log_history"]
    assert any("eval_loss" in row for row in history)


@pytest.mark.parametrize("how", ["recipe", "scheduler"])
def test_a_deadline_stops_in_time_and_the_run_goes_on_exactly(
    how: str, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_run("run-whole", checkpoint=KEPT)
    expected = train(whole)
    settings = {**KEPT, "deadline_s": 3600.0} if how == "recipe" else KEPT
    run = make_run("run-late", checkpoint=settings)
    with monkeypatch.context() as patch:
        if how == "recipe":
            patch.setenv("TUNE_STARTED", str(time.time() - 3600))
        else:
            patch.setenv(cadence.SCHEDULER_END, str(int(time.time())))
        first = train(run)
    assert (first["state"], first["exit_code"], first["step"]) == ("preempted", 75, 1)
    assert first["error"]["problems"][0]["what"] == "stopped at step 1, in time before the deadline"
    [told] = [e["what"] for e in events(run, "warning") if "deadline" in e["what"]]
    assert told.startswith("the deadline left time for 1 step after ")
    monkeypatch.setenv("TUNE_STARTED", str(time.time()))
    assert train(run)["digest"] == expected["digest"]
    assert losses(run) == losses(whole)


def test_the_deadline_is_the_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cadence.SCHEDULER_END, raising=False)
    assert cadence.deadline(None) is None
    monkeypatch.setenv("TUNE_STARTED", "1000")
    assert cadence.deadline(60) == 1060
    monkeypatch.setenv(cadence.SCHEDULER_END, "1030")
    assert cadence.deadline(60) == 1030
    assert cadence.deadline(None) == 1030
