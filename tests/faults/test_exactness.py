"""Stopped mid-epoch, at an epoch's end and after it, a run ends with the very adapter of a run that nobody stopped.

An epoch has 4 steps or, packed, however many the rows fill.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.faults.harness import METHODS, Place, events, expected, finished, stop, tail, together

CASES = list(
    itertools.product(
        METHODS, ("dropout", "still"), ("accumulated", "plain"), ("packed", "rows"), ("evaluated", "unseen")
    )
)
SHORT = [
    ("lora", "dropout", "accumulated", "rows", "evaluated"),
    ("qlora", "dropout", "plain", "packed", "unseen"),
    ("dora", "still", "accumulated", "packed", "evaluated"),
    ("full", "dropout", "plain", "rows", "unseen"),
]
"""Every method, and every value of every setting at least twice, in a few seconds."""
RANKS = {"launch": {"processes": 2}, "world_size": 2, "training.gradient_accumulation_steps": 1}


def changes(case: tuple[str, ...]) -> dict[str, Any]:
    """The plan of a case."""
    method, dropout, accumulation, packing, evaluation = case
    plan = dict(METHODS[method])
    share = 0.1 if dropout == "dropout" else 0.0
    if method == "full":
        plan["model.init"] = {"dtype": "float32", "attn_implementation": "eager", "attention_dropout": share}
    else:
        plan["peft.lora_dropout"] = share
    if accumulation == "plain":
        plan |= {"training.per_device_train_batch_size": 4, "training.gradient_accumulation_steps": 1}
    if packing == "packed":
        plan |= {"training.packing": True, "training.max_length": 48}
        if method == "full":
            plan["model.init"]["attn_implementation"] = "sdpa"
    if evaluation == "evaluated":
        plan |= {"training.eval_strategy": "steps", "training.eval_steps": 2}
    return plan | {"training.max_steps": -1, "training.num_train_epochs": 2}


def check(place: Place, name: str, plan: dict[str, Any], number: int | None = None) -> str | None:
    """Why a run stopped three times does not end as one that was not; None when it does."""
    whole = place.run(f"{name}-whole", **plan)
    if place.zygote.train(whole) != 0:
        return f"{name}: the undisturbed run failed: {tail(whole)}"
    digest, total = finished(whole), whole.status()["total_steps"]
    epoch = total // 2
    run = place.run(name, **plan)
    for step in (max(1, epoch // 2), epoch, epoch + 1):
        code = place.zygote.train(run, stop(step))
        if code != 75 or (run.result() or {}).get("step") != step:
            return f"{name}: stopped at step {step}, exit {code}: {(run.result() or {}).get('error')} {tail(run)}"
    if place.zygote.train(run) != 0:
        return f"{name}: did not go on to the end: {tail(run)}"
    if finished(run) != digest:
        return f"{name}: another digest"
    if logs(run) != logs(whole):
        return f"{name}: other losses: {logs(run)} instead of {logs(whole)}"
    same = ("train_loss", "first_loss", "last_loss", "eval_loss", "num_tokens")
    have, want = (run.result() or {})["metrics"], (whole.result() or {})["metrics"]
    return next((f"{name}: {k} is {have.get(k)}, not {want.get(k)}" for k in same if have.get(k) != want.get(k)), None)


def logs(run: Any) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of each step."""
    return {
        e["step"]: (e["metrics"]["loss"], e["metrics"]["grad_norm"])
        for e in events(run, "log")
        if "loss" in e["metrics"]
    }


def test_stopped_and_resumed_is_as_if_never_stopped(place: Place) -> None:
    assert [f for f in together(lambda c: check(place, "-".join(c), changes(c)), SHORT) if f] == []


@pytest.mark.slow
def test_in_every_combination(place: Place) -> None:
    assert len(CASES) == 64
    assert [f for f in together(lambda c: check(place, "-".join(c), changes(c)), CASES) if f] == []


def test_two_ranks_stopped_and_resumed(place: Place) -> None:
    fault = check(place, "ranks", changes(("lora", "dropout", "accumulated", "rows", "evaluated")) | RANKS)
    assert fault is None


@pytest.mark.slow
def test_two_ranks_in_every_method(place: Place) -> None:
    names = [("full", "dropout"), ("qlora", "dropout"), ("dora", "still")]
    for method, dropout in names:
        plan = changes((method, dropout, "accumulated", "rows", "unseen")) | RANKS
        assert check(place, f"ranks-{method}", plan) is None


def test_the_zygote_repeats_itself(place: Place) -> None:
    again = place.run("again")
    assert place.zygote.train(again) == 0, tail(again)
    assert finished(again) == expected(place, "whole")
