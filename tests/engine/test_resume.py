"""A run that was interrupted, by whatever, ends with the same adapter and the same losses as one that was not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, checkpoint, read_json, write_json
from nothing_tune.engine.progress import Progress
from tests.engine.support import NF4, MakeRun, events, losses, train

LORA = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": "all-linear",
}
CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"quantization": NF4},
    "qlora-fp16": {"quantization": NF4, "trainable_dtype": "float32"},
    "dora-qlora": {"quantization": NF4, "peft": {**LORA, "use_dora": True}},
    "full": {"peft": None},
    "pissa": {"peft": {**LORA, "init_lora_weights": "pissa"}},
    "pissa-bf16": {"peft": {**LORA, "init_lora_weights": "pissa"}, "model.init": {"dtype": "bfloat16"}},
    "olora": {"peft": {**LORA, "init_lora_weights": "olora", "use_rslora": True}},
    "packing": {"training.packing": True, "training.max_length": 64},
    "epochs": {
        "training.eval_strategy": "epoch",
        "training.save_strategy": "epoch",
        "training.max_steps": -1,
        "training.num_train_epochs": 2,
    },
    "sparse-logs": {"training.logging_steps": 3},
}


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> None:
    """Sends this process the signal at the end of `step`, once."""
    original = Progress.on_step_end

    def on_step_end(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "on_step_end", on_step_end)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [3, 5])
def test_stopped_and_resumed_is_as_if_never_stopped(
    case: str, step: int, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case not in ("lora", "qlora") and step != 3:
        pytest.skip("one step will do")
    whole, parts = make_run("run-whole", **CASES[case]), make_run("run-parts", **CASES[case])
    expected = train(whole)
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        first = train(parts)
    assert (first["state"], first["exit_code"], first["step"]) == ("preempted", 75, step)
    monkeypatch.setenv("TUNE_ATTEMPT", "2")
    second = train(parts)
    assert second["state"] == "done"
    assert losses(parts) == losses(whole)
    assert second["digest"] == expected["digest"]
    same = ("train_loss", "first_loss", "last_loss", "eval_loss", "num_tokens")
    assert {k: second["metrics"].get(k) for k in same} == {k: expected["metrics"].get(k) for k in same}
    assert {e["step"]: e["metrics"]["eval_loss"] for e in events(parts, "eval")} == {
        e["step"]: e["metrics"]["eval_loss"] for e in events(whole, "eval")
    }


def test_sigint_stops_as_the_user_asked(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    stop_at(1, monkeypatch, signal.SIGINT)
    result = train(run)
    assert (result["state"], result["exit_code"]) == ("stopped", 130)
    assert checkpoint.fault(run.checkpoints / "checkpoint-1") is None


def test_a_damaged_checkpoint_is_passed_over(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, run = make_run("run-whole"), make_run("run-parts")
    expected = train(whole)
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        train(run)
    weights = run.checkpoints / "checkpoint-5" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    second = train(run)
    assert second["digest"] == expected["digest"]
    assert "adapter_model.safetensors is not what was written" in events(run, "warning")[0]["what"]
    assert events(run, "resume")[0]["step"] == 4


@pytest.mark.parametrize(
    "changes",
    [{}, {"monitor": {"early_stopping_patience": 1, "early_stopping_threshold": 10.0}, "training.max_steps": 20}],
    ids=["all steps", "stopped early"],
)
def test_a_run_that_died_while_handing_over_trains_no_step_more(make_run: MakeRun, changes: dict[str, Any]) -> None:
    run = make_run(**changes)
    first = train(run)
    assert first["state"] == "done"
    (run.path / "result.json").unlink()
    shutil.rmtree(run.adapter)
    logged = len(events(run, "log"))
    second = train(run)
    assert len(events(run, "log")) == logged
    assert {k: second[k] for k in ("state", "step", "epoch", "digest")} == {
        k: first[k] for k in ("state", "step", "epoch", "digest")
    }
    assert second["metrics"]["train_loss"] == first["metrics"]["train_loss"]


def test_a_run_that_is_given_more_steps_goes_on(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    plan = run.plan()
    plan["training"]["max_steps"] = 8
    write_json(run.path / "plan.json", plan)
    (run.path / "result.json").unlink()
    assert train(run)["step"] == 8
    assert sorted(losses(run)) == list(range(1, 9))
    rates = {e["step"]: e["metrics"]["learning_rate"] for e in events(run, "log")}
    assert all(rate > 0 for step, rate in rates.items() if 6 < step <= 8)  # not the end of the shorter curve
    assert any("instead of" in e["what"] for e in events(run, "warning"))


def test_other_trainable_weights_are_refused(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        train(run)
    plan = run.plan()
    plan["trainable_dtype"] = "bfloat16"
    write_json(run.path / "plan.json", plan)
    checkpoint.commit(
        run.checkpoints / "checkpoint-3", step=3, attempt=1, run=run.id
    )  # without the settings it came from
    result = train(run)
    assert result["exit_code"] == 65
    assert "other weights" in result["error"]["problems"][0]["what"]


def engine(run: Run) -> subprocess.Popen[bytes]:
    with open(run.path / "engine.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine", str(run.path)],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )


def wait_for_step(run: Run, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if any(s >= step for s in losses(run)):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {(run.path / 'engine.log').read_text()[-2000:]}")


@pytest.mark.parametrize("case", [pytest.param("lora", marks=pytest.mark.slow), "qlora"])
def test_killed_for_real_and_started_again(case: str, make_run: MakeRun) -> None:
    changes = {**CASES[case], "training.max_steps": 60, "training.save_steps": 4, "training.eval_steps": 4}
    whole, run = make_run("run-whole", **changes), make_run("run-parts", **changes)
    expected = train(whole)

    process = engine(run)
    wait_for_step(run, 9, process)
    os.kill(run.status()["worker"], signal.SIGKILL)
    assert process.wait(30) == 5
    result = run.result()
    assert result is not None
    assert result["state"] == "failed"
    assert "killed by signal 9 (SIGKILL)" in result["error"]["problems"][0]["what"]
    assert run.state() == "failed"

    process = engine(run)  # the second attempt is preempted, the third ends
    wait_for_step(run, 25, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    preempted = run.result()
    assert preempted is not None
    assert preempted["state"] == "preempted"
    assert checkpoint.fault(run.checkpoints / f"checkpoint-{preempted['step']}") is None

    assert engine(run).wait(120) == 0
    final = run.result()
    assert final is not None
    assert final["attempt"] == 3
    assert losses(run) == losses(whole)
    assert final["digest"] == expected["digest"]
    assert read_json(run.path / "status.json")["state"] == "done"
    assert engine(run).wait(30) == 0  # a run that is done stays done
    assert run.result() == final
