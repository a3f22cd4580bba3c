"""The training maths against transformers itself: what the Trainer counts, what its callback does, and what a run then did."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DefaultFlowCallback, Trainer, TrainerControl, TrainerState, TrainingArguments

from nothing_tune.engine.inspect import inspect
from nothing_tune.plan.maths import Every, maths
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import GIVEN, Rows, of_report
from tests.engine.support import MakeRun, events, train

pytestmark = pytest.mark.engine

often = st.one_of(st.integers(1, 400), st.floats(0.01, 0.99))
asked = st.fixed_dictionaries(
    {
        "per_device_train_batch_size": st.integers(1, 17),
        "gradient_accumulation_steps": st.integers(1, 9),
        "num_train_epochs": st.one_of(st.integers(1, 6), st.floats(0.05, 4)),
        "max_steps": st.one_of(st.just(-1), st.just(-1), st.integers(1, 300)),
        "dataloader_drop_last": st.booleans(),
        "warmup_steps": st.one_of(st.integers(0, 300), st.floats(0, 0.99)),
        "eval_strategy": st.sampled_from(["no", "steps", "steps", "epoch"]),
        "eval_steps": often,
        "eval_delay": st.one_of(st.just(0), st.integers(1, 50)),
        "save_strategy": st.sampled_from(["no", "steps", "steps", "epoch"]),
        "save_steps": often,
    }
)


def plan_of(training: dict[str, Any], world: int) -> Plan:
    empty: dict[str, Any] = {"name": "p", "gpu": {}, "values": {}, "model": {}, "quantization": None, "peft": None}
    rest: dict[str, Any] = {"tracking": {}, "monitor": {}, "checkpoint": {}, "trainable_dtype": None}
    return Plan(**empty, **rest, data={"eval": 0.1}, training=training, world_size=world)


def done_by_transformers(args: TrainingArguments, loader: Any) -> tuple[int, int, int, int, int]:
    """`(per epoch, total, warmup, evaluations, saves)` by the Trainer's own methods and the callback that it asks at each step."""
    trainer = Trainer.__new__(Trainer)
    trainer.args = args
    trainer.get_sp_size = lambda: 1  # type: ignore[method-assign]
    trainer.get_total_train_batch_size = lambda a: 1  # type: ignore[method-assign]
    trainer.num_examples = lambda loader: len(loader.dataset)  # type: ignore[method-assign]
    _, per_epoch, _, _, _, _, total = trainer.set_initial_training_values(args, loader)
    state, flow, seen = TrainerState(max_steps=total), DefaultFlowCallback(), [0, 0]
    state.compute_steps(args, total)
    for step in range(1, total + 1):
        state.global_step, state.epoch = step, step / per_epoch
        controls = [flow.on_step_end(args, state, TrainerControl())]
        if step % per_epoch == 0 or step == total:
            controls.append(flow.on_epoch_end(args, state, TrainerControl()))
        seen[0] += sum(c.should_evaluate for c in controls)
        seen[1] += sum(c.should_save for c in controls)
    return per_epoch, total, args.get_warmup_steps(total), *seen


def count(every: Every | None) -> int:
    return every.count if every else 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked, st.integers(1, 3000), st.integers(1, 8))
def test_steps_are_those_of_the_trainer(training: dict[str, Any], rows: int, world: int) -> None:
    micro = training["per_device_train_batch_size"]
    if training["dataloader_drop_last"] and rows < micro * world:
        return  # nothing to train on: refused before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = TrainingArguments(output_dir="x", use_cpu=True, bf16=False, report_to="none", **training)
    plain = torch.utils.data.DataLoader(
        range(rows),  # type: ignore[arg-type]
        batch_size=micro,
        drop_last=training["dataloader_drop_last"],
    )
    loader = prepare_data_loader(plain, num_processes=world, process_index=0, put_on_device=False)
    found = maths(Rows(GIVEN, train=rows, eval=7), plan_of(training, world))
    assert found is not None
    got = (found.per_epoch, found.total, found.warmup, count(found.evaluations), count(found.saves))
    assert got == done_by_transformers(args, loader)
    last = found.dropped + found.global_batch * (found.per_epoch - 1) + found.last
    assert last == rows, "every row is in a step of an epoch, or dropped"


RUNS: dict[str, dict[str, Any]] = {
    "plain": {"training.max_steps": -1, "training.num_train_epochs": 1.5, "training.eval_steps": 3},
    "packed": {
        "training.max_steps": -1, "training.num_train_epochs": 2, "training.packing": True, "training.max_length": 64,
        "training.eval_packing": False, "training.padding_free": False, "training.eval_strategy": "epoch",
    },
    "dropped": {
        "training.max_steps": -1, "training.num_train_epochs": 1, "training.dataloader_drop_last": True,
        "training.per_device_train_batch_size": 3, "training.eval_steps": 0.5, "training.warmup_steps": 0.2,
    },
    "split": {
        "training.max_steps": 5, "data.truncation": "split", "training.max_length": 24, "training.eval_strategy": "no",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_does_what_was_planned(name: str, make_run: MakeRun) -> None:
    run = make_run(**RUNS[name])
    plan = Plan.from_json(run.plan())
    report, _ = inspect(run.plan(), 0, lambda *_: None)
    found = maths(of_report(report), plan)
    assert found is not None
    assert found.exact
    result = train(run)
    assert result["state"] == "done", result
    assert result["step"] == found.total
    [start] = events(run, "start")
    assert start["total_steps"] == found.total
    evaluated = [e for e in events(run, "eval") if e["step"]]
    assert len(evaluated) == count(found.evaluations)
    last = [e for e, _ in run.events() if e["type"] == "log" and "num_tokens" in e.get("metrics", {})]
    if found.epochs == int(found.epochs) and last:
        assert last[-1]["metrics"]["num_tokens"] == found.tokens


def test_the_shipped_model_trains_as_planned(tmp_path: Path) -> None:
    """The quickstart's plan, shortened, on the model that ships: what `tune plan` counts is what the engine did."""
    from nothing_tune.artifacts import Run, write_json
    from nothing_tune.plan import make_plan
    from nothing_tune.recipe import load_recipe

    words = ["data.max_samples=48", "training.num_train_epochs=2", "training.eval_steps=5", "training.warmup_steps=0.1"]
    plan = make_plan(load_recipe("quickstart", gpu="cpu", overrides=words))
    report, _ = inspect(json.loads(json.dumps(plan.to_json())), 0, lambda *_: None)
    found = maths(of_report(report), plan)
    assert found is not None
    run = Run(tmp_path / "run-nano")
    run.path.mkdir()
    write_json(run.path / "plan.json", replace(plan).to_json())
    result = train(run)
    assert (result["state"], result["step"]) == ("done", found.total)
    assert len(events(run, "eval")) == count(found.evaluations)
