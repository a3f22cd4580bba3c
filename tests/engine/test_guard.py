"""Steps that are not finite, losses that jump, the longest batch first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import checkpoint
from nothing_tune.engine import guard
from nothing_tune.engine.train import Trainer
from tests.engine.support import NF4, MakeRun, events, losses, train


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Makes the gradient of these steps (from 1) not a number."""
    original = Trainer.training_step

    def training_step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        if self.state.global_step + 1 in steps:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Trainer, "training_step", training_step)


def test_one_bad_step_leaves_the_weights_alone(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    spoil(monkeypatch, {2, 3, 5})
    result = train(run)
    assert (result["state"], result["step"]) == ("done", 6)
    assert [(e["step"], e["in_a_row"], e["what"]) for e in events(run, "non_finite")] == [
        (2, 1, "the gradient"), (3, 2, "the gradient"), (5, 1, "the gradient"),
    ]  # fmt: skip
    assert all(checkpoint.fault(f) is None for f in run.checkpoints.glob("checkpoint-*"))


def test_three_in_a_row_end_the_run_and_say_why(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, run = make_run("run-whole"), make_run("run-parts")
    expected = train(whole)
    with monkeypatch.context() as patch:
        spoil(patch, {4, 5, 6})
        result = train(run)
    assert (result["state"], result["exit_code"]) == ("failed", 70)
    [problem] = result["error"]["problems"]
    assert problem["what"] == "the gradient was not finite in 3 steps in a row, the last is step 6"
    places = [place for r in events(run, "non_finite")[-1]["rows"] for place in r["places"]]
    assert len(places) == 4
    assert all(re.fullmatch(r"\S+rows\.jsonl:\d+", place) for place in places)
    newest, faults = checkpoint.newest(run.checkpoints)
    assert newest is not None
    assert problem["hint"] == (
        f"look at {', '.join(places)}; a lower learning rate, more warmup_steps or a lower "
        f"max_grad_norm help; {newest.name} is good, tune runs fork run-parts training.learning_rate=0.0005 goes on from it"
    )
    assert faults == []
    assert train(run)["exit_code"] == 0  # what spoiled it is gone
    assert expected["state"] == "done"


def test_a_loss_that_is_not_finite_counts_too(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.compute_loss

    def compute_loss(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs) * float("inf")

    monkeypatch.setattr(Trainer, "compute_loss", compute_loss)
    run = make_run(**{"training.eval_strategy": "no"}, monitor={"non_finite_steps": 2})
    result = train(run)
    assert result["exit_code"] == 70
    assert "the loss was not finite in 2 steps in a row, the last is step 2" in result["error"]["problems"][0]["what"]
    assert (
        "there is no checkpoint yet: start anew with training.learning_rate=0.0005"
        in result["error"]["problems"][0]["hint"]
    )


@pytest.mark.parametrize("start", [0, 3])
def test_the_rows_of_a_step_are_those_that_were_trained_on(
    start: int, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[list[int]]] = {}
    named: dict[int, list[list[int]]] = {}
    original = Trainer.training_step

    def training_step(self: Trainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        step = self.state.global_step + 1
        rows = [
            ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        seen.setdefault(step, []).extend(rows)
        if step not in named:
            named[step] = [list(self.train_dataset[r["row"]]["input_ids"]) for r in guard.rows_of_step(self, step)]
        return original(self, model, inputs, *args, **kwargs)

    plain = train(make_run("run-plain", **{"training.max_steps": 11}))
    run = make_run("run-0001", **{"training.max_steps": 11})  # 8 steps an epoch
    if start:
        from tests.engine.test_resume import stop_at

        with monkeypatch.context() as patch:
            stop_at(start, patch)
            train(run)
    monkeypatch.setattr(Trainer, "training_step", training_step)
    assert train(run)["digest"] == plain["digest"]
    assert sorted(seen) == list(range(start + 1, 12))
    assert named == seen


@pytest.mark.parametrize("quantization", [None, NF4])
def test_a_rehearsal_leaves_nothing_behind(make_run: MakeRun, quantization: dict[str, Any] | None) -> None:
    plain = make_run("run-plain", quantization=quantization, monitor={"rehearse": False})
    tried = make_run("run-tried", quantization=quantization, monitor={"rehearse": True})
    expected, result = train(plain), train(tried)
    assert result["digest"] == expected["digest"]
    assert losses(tried) == losses(plain)
    assert result["metrics"]["num_tokens"] == expected["metrics"]["num_tokens"]
    [rehearsal] = events(tried, "rehearsal")
    assert len(rehearsal["rows"]) == 2
    assert rehearsal["tokens"] > 0
    assert events(plain, "rehearsal") == []


def test_the_longest_rows_are_rehearsed(tmp_path: Path) -> None:
    from datasets import Dataset

    data = Dataset.from_dict({"input_ids": [[1] * n for n in (3, 9, 1, 9, 4)]})
    assert guard.longest(data, 3) == [1, 3, 4]
    assert guard.longest(data.select([4, 0, 1]), 9) == [2, 0, 1]


def test_a_spike_is_told_with_its_rows(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.compute_loss

    def compute_loss(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs) * (9.0 if self.state.global_step + 1 == 14 else 1.0)

    monkeypatch.setattr(Trainer, "compute_loss", compute_loss)
    run = make_run(**{"training.max_steps": 16, "training.eval_strategy": "no"})
    assert train(run)["state"] == "done"
    [spike] = events(run, "spike")
    assert spike["step"] == 14
    assert spike["loss"] > 3 * spike["median"] > 0
    assert len(spike["rows"]) == 4
    assert all(r["text"] for r in spike["rows"])
