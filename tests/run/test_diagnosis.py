"""`tune doctor RUN_ID`: every ending and every curve that is known, made by hand, and what is said of each."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, attempts, checkpoint, write_json
from nothing_tune.run.doctor import Cause, Diagnosis, diagnose, pace
from nothing_tune.run.doctor.causes import ENDINGS
from nothing_tune.run.doctor.curves import CURVES
from nothing_tune.run.doctor.numbers import trend
from nothing_tune.run.doctor.pace import PACE, utilisation
from nothing_tune.run.doctor.record import read

PLAN: dict[str, Any] = {
    "name": "demo",
    "gpu": {"name": "l4", "memory_gb": 24, "bf16": True, "tflops_bf16": 121},
    "values": {"name": "demo"},
    "model": {"name_or_path": "org/model"},
    "data": {"train": "rows.jsonl", "eval": 0.1},
    "quantization": {"load_in_4bit": True},
    "peft": {"peft_type": "LORA", "r": 16, "lora_alpha": 16},
    "training": {
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 2, "max_length": 1024, "bf16": True,
        "learning_rate": 2e-4, "warmup_steps": 20, "max_grad_norm": 1.0, "eval_strategy": "steps", "eval_steps": 50,
        "dataloader_num_workers": 2, "packing": True,
    },
    "checkpoint": {"best": True},
    "world_size": 1,
}  # fmt: skip
NOISE = (0.03, -0.05, 0.01, 0.06, -0.02, -0.04, 0.05, 0.0, -0.03, 0.02)
"""Added to losses in turn, so that tests need no random numbers."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs to survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def written(path: Path, data: Any) -> None:
    """As `write_json`, without waiting for the disk."""
    write_json(path, data, durable=False)


class Story:
    """A run directory that a test writes as an engine would."""

    def __init__(self, folder: Path, name: str = "story", **plan: Any) -> None:
        self.run = Run(folder / "runs" / name)
        self.run.path.mkdir(parents=True)
        training = {**PLAN["training"], **plan.pop("training", {})}
        written(self.run.path / "plan.json", {**PLAN, "training": training, **plan})
        (self.run.path / "recipe.yaml").write_text("name: demo\n")
        self.lines: list[dict[str, Any]] = []
        self.at = time.time() - 7200

    def event(self, kind: str, **fields: Any) -> Story:
        self.at += 1
        self.lines.append({"time": self.at, "attempt": 1, "type": kind, **fields})
        return self

    def began(self, **fields: Any) -> Story:
        self.event("attempt", number=1, host="elsewhere", from_step=0).event("phase", phase="imports")
        self.event("start", **{"device": "cuda:0", "total_parameters": 3.2e9, "trainable_parameters": 2.4e7, **fields})
        return self.event("phase", phase="train").event("state", state="running")

    def logs(self, loss: Callable[[int], float | None], steps: range = range(10, 401, 10), **fields: Any) -> Story:
        """One log at each step; `fields` may be functions of the step."""
        every = max(PLAN["training"]["eval_steps"], 1)
        for n, step in enumerate(steps):
            own = {k: v(step) if callable(v) else v for k, v in fields.items()}
            value = loss(step)
            value = None if value is None else value + NOISE[n % len(NOISE)]
            rate = own.pop("learning_rate", 2e-4)
            metrics = {"loss": value, "grad_norm": own.pop("grad_norm", 0.5), "learning_rate": rate}
            extra = {"tokens_per_s": 3000.0, "memory_gib": 12.0, "eta_s": 1.0, **own}
            self.event("log", step=step, epoch=step / (4 * every), metrics=metrics, **extra)
        return self

    def evals(self, *losses: float, every: int = 50) -> Story:
        """Evaluations at `every`, 2 x `every` ..., sorted in between the logs by their step."""
        for n, loss in enumerate(losses, 1):
            self.event("eval", step=n * every, epoch=n * every / 200, metrics={"eval_loss": loss, "eval_runtime": 2.0})
        return self

    def save(self, *steps: int) -> Story:
        for step in steps:
            folder = self.run.checkpoints / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            (folder / "adapter_model.safetensors").write_bytes(b"x" * 64)
            checkpoint.commit(folder, step=step, attempt=1, run=self.run.id)
        return self

    def attempt(self, number: int = 1, /, **fields: Any) -> Story:
        known = {
            "host": "elsewhere",
            "created": self.at,
            "heartbeat": self.at,
            "ended": self.at,
            "from_step": 0,
            "step": 0,
            "acts": [],
        }
        (self.run.path / attempts.FOLDER).mkdir(exist_ok=True)
        written(self.run.path / attempts.FOLDER / f"{number:04}.json", {"attempt": number, **known, **fields})
        return self

    def log(self, text: str) -> Story:
        (self.run.path / "engine.log").write_text(text)
        return self

    def end(
        self,
        state: str = "done",
        code: int | None = 0,
        what: str = "",
        hint: str = "",
        *,
        step: int = 400,
        total: int = 400,
        **fields: Any,
    ) -> Diagnosis:
        """Writes what there is, and how it ended; `state` `running` writes no result."""
        with open(self.run.path / "events.jsonl", "w", encoding="utf-8") as handle:
            handle.writelines(
                json.dumps(line) + "\n" for line in sorted(self.lines, key=lambda e: (e.get("step") or 0, e["time"]))
            )
        now = time.time()
        status = {
            "state": state,
            "step": step,
            "total_steps": total,
            "heartbeat": now,
            "created": self.at,
            "host": "elsewhere",
            "attempt": 1,
        }
        written(self.run.path / "status.json", {**status, **fields.pop("status", {})})
        if code is not None:
            problems = [{"what": what, "hint": hint, "key": fields.pop("key", "")}] if what else []
            error = {"problems": problems} if problems else None
            result = {
                "state": state,
                "exit_code": code,
                "attempt": 1,
                "error": error,
                "step": step,
                "metrics": {},
                **fields,
            }
            written(self.run.path / "result.json", result)
        return diagnose(self.run)


def falling(step: int) -> float:
    """A loss as it should be."""
    return 1.2 + 2.0 * math.exp(-step / 120)


def rules(found: Diagnosis) -> list[str]:
    return [c.rule for c in found.causes]


def only(found: Diagnosis, rule: str) -> Cause:
    assert rules(found) == [rule], [c.what for c in found.causes]
    return found.causes[0]


def commands(cause: Cause) -> list[str]:
    return [c for c, _ in cause.cures]


def test_a_healthy_run_says_so_in_one_line(tmp_path: Path) -> None:
    found = Story(tmp_path).began().logs(falling).evals(2.4, 2.0, 1.7, 1.5, 1.42, 1.36, 1.33, 1.31).save(350, 400).end()
    assert found.causes == ()
    assert found.well
    assert not found.failed
    assert (
        found.summary
        == "done: 400 of 400 steps, loss 3.070 -> 1.291, evaluation 1.310, best 1.310 at step 400, 3,000 tokens/s, 12.0 GiB"
    )
    live = Story(tmp_path, "live").began().logs(falling, range(10, 101, 10)).end("running", None, step=100)
    assert live.well
    assert live.summary.startswith("running: 100 of 400 steps, loss 3.070 -> ")


ENDED: list[tuple[str, dict[str, Any], str, str, str]] = [
    # name, what the result says, rule, severity, first command
    (
        "refused",
        {
            "state": "stopped",
            "code": 65,
            "what": "torch was 2.12.0 and is 2.13.0",
            "hint": "pip install torch==2.12.0, or resume with --allow-version-drift",
        },
        "refused",
        "fail",
        "pip install torch==2.12.0",
    ),
    (
        "diverged",
        {"state": "failed", "code": 70, "what": "the loss was not finite in 3 steps in a row, the last is step 43"},
        "diverged",
        "fail",
        "tune runs fork diverged training.learning_rate=0.0001",
    ),
    (
        "memory",
        {"state": "failed", "code": 71, "what": "out of memory: CUDA out of memory", "oom": "training"},
        "out-of-memory",
        "fail",
        "tune runs fork memory training.per_device_train_batch_size=1 training.gradient_accumulation_steps=16",
    ),
    (
        "host",
        {"state": "failed", "code": 71, "what": "the system ran out of memory and killed the worker"},
        "host-memory",
        "fail",
        "tune resume host training.dataloader_num_workers=0",
    ),
    (
        "disk",
        {"state": "failed", "code": 74, "what": "the disk refused to write x: No space left on device"},
        "disk",
        "fail",
        "df -h {run}",
    ),
    (
        "killed",
        {"state": "failed", "code": 5, "what": "the worker was killed by signal 9 (SIGKILL)", "signal": 9},
        "killed",
        "fail",
        "dmesg -T | grep -i -E 'killed process|oom'",
    ),
    (
        "code137",
        {"state": "failed", "code": 5, "what": "the worker ended with code 137 and left no result"},
        "killed",
        "fail",
        "dmesg -T | grep -i -E 'killed process|oom'",
    ),
    (
        "bus",
        {"state": "failed", "code": 5, "what": "the worker was killed by signal 7 (SIGBUS)", "signal": 7},
        "crashed",
        "fail",
        "docker run --shm-size=8g",
    ),
    (
        "hangs",
        {
            "state": "failed",
            "code": 5,
            "what": "the training hangs: it stood still twice at step 40, with no checkpoint between",
        },
        "hung",
        "fail",
        "grep -n 'File \"' {run}/engine.log | tail",
    ),
    (
        "loops",
        {"state": "failed", "code": 70, "what": "the same error three times at step 40: ValueError: x"},
        "crash-loop",
        "fail",
        "tail -50 {run}/engine.log",
    ),
    (
        "assert",
        {"state": "failed", "code": 5, "what": "RuntimeError: CUDA error: device-side assert triggered"},
        "token-ids",
        "fail",
        "export CUDA_LAUNCH_BLOCKING=1",
    ),
    (
        "targets",
        {"state": "failed", "code": 5, "what": "ValueError: Target modules {'c_attn'} not found in the base model."},
        "target-modules",
        "fail",
        "tune train {recipe} peft.target_modules=all-linear",
    ),
    (
        "gated",
        {
            "state": "failed",
            "code": 2,
            "what": "model a/b is gated: its owner asks you to accept the terms first",
            "hint": "accept them",
        },
        "gated",
        "fail",
        "hf auth login",
    ),
    (
        "other",
        {
            "state": "failed",
            "code": 5,
            "what": "ValueError: something new",
            "hint": "engine.log in the run directory has the whole story",
        },
        "failed",
        "fail",
        "engine.log in the run directory has the whole story",
    ),
    ("dumb", {"state": "failed", "code": 5}, "failed", "fail", "tail -50 {run}/engine.log"),
    (
        "user",
        {"state": "stopped", "code": 130, "what": "stopped by the user"},
        "ended-from-outside",
        "advice",
        "tune resume user",
    ),
    (
        "sigterm",
        {"state": "preempted", "code": 75, "what": "ended from outside (SIGTERM)"},
        "ended-from-outside",
        "advice",
        "tune resume sigterm",
    ),
]


def test_every_ending(tmp_path: Path) -> None:
    for name, result, rule, severity, first in ENDED:
        story = (
            Story(tmp_path, name)
            .began()
            .logs(falling, range(10, 41, 10))
            .save(30, 40)
            .attempt(step=40, exit_code=result["code"])
        )
        found = story.end(step=40, total=400, **result)
        cause = only(found, rule)
        assert cause.severity == severity, name
        assert found.failed is (severity == "fail"), name
        recipe = story.run.path / "recipe.yaml"
        assert commands(cause)[0] == first.format(run=story.run.path, recipe=recipe), name
        assert cause.evidence if rule not in ("crash-loop",) else True, name
        assert cause.source, name


def test_words_of_endings(tmp_path: Path) -> None:
    story = (
        Story(tmp_path, "oom")
        .began()
        .logs(falling, range(10, 41, 10))
        .log("noise\nTraceback\ntorch.OutOfMemoryError: CUDA out of memory\n")
    )
    what = "micro batch 8 -> 4, accumulation 2 -> 4"
    written(
        story.run.path / "adjustments.json",
        [{"what": what, "step": 3, "training": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}}],
    )
    cause = only(
        story.end("failed", 71, "out of memory, with one row at once and activation checkpointing", step=40),
        "out-of-memory",
    )
    assert cause.evidence == (
        "while training, at step 40 of 400; there is no checkpoint yet", f"tried: {what}", "micro batch 4, rows of up to 1024 tokens",
        "the GPU has 24 GB", "memory up to 12.0 GiB so far",
    )  # fmt: skip
    assert commands(cause)[1] == f"tune train {story.run.path / 'recipe.yaml'} training.max_length=512"
    assert cause.source == "PEFT Studio, troubleshooting; Nemotron function calling, training guide"

    refused = Story(tmp_path, "drift").began().end("stopped", 65, "trl was 1.15.0 and is 1.16.0", step=40)
    assert (
        only(refused, "refused").what == "it was not continued: library versions are not those that it was started with"
    )
    assert "tune resume drift --allow-version-drift" in commands(refused.causes[0])

    rows = [{"row": 3, "places": ["rows.jsonl:12", "rows.jsonl:40"]}]
    nan = Story(tmp_path, "nan").began().logs(lambda s: falling(s) if s < 40 else None, range(10, 61, 10))
    nan.event("non_finite", step=43, what="the gradient", rows=rows, in_a_row=1)
    cause = only(nan.save(40).end("failed", 70, "the gradient was not finite in 3 steps in a row", step=60), "diverged")
    assert cause.evidence[0] == "the gradient at step 43: rows.jsonl:12, rows.jsonl:40"
    assert cause.evidence[1] == "last losses 2.843, 2.768, not finite, not finite, not finite (steps 20 to 60)"
    assert commands(cause)[0] == "look at rows.jsonl:12, rows.jsonl:40"

    left_out = (
        Story(tmp_path, "once").began().logs(falling).event("non_finite", step=43, what="the loss", rows=[]).end()
    )
    assert only(left_out, "diverged").severity == "warn"
    assert not left_out.failed


def test_runs_that_say_nothing(tmp_path: Path) -> None:
    never = Story(tmp_path, "never").end(
        "starting", None, step=0, status={"heartbeat": None, "created": time.time() - 900}
    )
    assert only(never, "never-started").cures[0] == ("tune resume never", "starts it")
    new = Story(tmp_path, "new").end("starting", None, step=0, status={"heartbeat": None, "created": time.time()})
    assert new.causes == ()
    waits = Story(tmp_path, "waits").end("stopped", None, step=0)
    assert only(waits, "waits").severity == "advice"

    lost = Story(tmp_path, "lost").began().logs(falling, range(10, 41, 10)).save(30).attempt(ended=None)
    found = lost.end("running", None, step=40, status={"heartbeat": time.time() - 3 * 3600})
    assert (found.state, found.failed) == ("lost", True)
    assert only(found, "lost").evidence[:2] == (
        "last heartbeat 3 h ago on elsewhere",
        "while training, at step 40 of 400; checkpoint-30 is the newest",
    )
    assert found.causes[0].cures[0] == ("tune resume lost", "continues at step 30")

    still = Story(tmp_path, "still").began().logs(falling, range(10, 41, 10))
    found = still.end("running", None, step=40, status={"progress": time.time() - 1200, "step_s": 2.0})
    assert only(found, "stands-still").evidence[:2] == ("no step for 20 min", "a step usually takes 2.0 s")
    usual = (
        Story(tmp_path, "usual")
        .began()
        .end("running", None, step=40, status={"progress": time.time() - 1200, "step_s": 90.0})
    )
    assert usual.causes == ()

    held = (
        Story(tmp_path, "held")
        .began()
        .attempt(ended=None, heartbeat=time.time(), pid=77, host="other")
        .end("running", None, step=40)
    )
    assert held.well
    assert held.summary == "running: 40 of 400 steps, process 77 on other works on it"


def test_preemption_after_preemption(tmp_path: Path) -> None:
    story = Story(tmp_path).began().save(30)
    story.attempt(1, from_step=0, step=30, state="preempted", exit_code=75)
    for number in (2, 3, 4):
        story.attempt(number, from_step=30, step=30 + number, state="preempted", exit_code=None, ended=None)
    found = story.end("preempted", 75, "ended from outside (SIGTERM), before it could save", step=34)
    cause = only(found, "no-progress")
    assert cause.what == "3 attempts in a row saved nothing new"
    assert cause.evidence[0] == "attempt 2: from step 30 to 32, preempted"
    assert found.failed
    fine = Story(tmp_path, "fine").began().save(30, 60)
    fine.attempt(1, from_step=0, step=30, state="preempted", exit_code=75).attempt(
        2, from_step=30, step=60, state="preempted", exit_code=75
    )
    assert rules(fine.end("preempted", 75, "ended from outside (SIGTERM)", step=60)) == ["ended-from-outside"]


def test_damaged_files(tmp_path: Path) -> None:
    story = Story(tmp_path).began().logs(falling).save(300, 400)
    (story.run.checkpoints / "checkpoint-400" / "adapter_model.safetensors").write_bytes(b"y" * 64)
    cause = story.end("stopped", 130, "stopped by the user", step=400).causes[0]
    assert (cause.rule, cause.severity) == ("checkpoints", "warn")
    assert cause.evidence == ("checkpoint-400: adapter_model.safetensors is not what was written",)
    assert cause.cures[1] == ("tune resume story", "goes on at step 300, the newest that is whole")

    torn = Story(tmp_path, "torn").began().logs(falling).save(300)
    (torn.run.checkpoints / "checkpoint-400").mkdir()
    found = torn.end("preempted", 75, "ended from outside (SIGTERM)", step=400)
    assert [(c.rule, c.severity) for c in found.causes] == [("ended-from-outside", "advice"), ("checkpoints", "advice")]

    broken = Story(tmp_path, "broken").began()
    broken.end("running", None)
    for file in ("status.json", "result.json"):
        (broken.run.path / file).write_text("{torn")
    (broken.run.path / "events.jsonl").write_bytes(b'{"type": "log", "step"\nnot json\n\xff\xfe\n')
    assert "damaged-files" in rules(diagnose(broken.run))
    (broken.run.path / "plan.json").write_text("")
    found = diagnose(broken.run)
    assert (found.state, found.causes[0].rule) == ("damaged", "no-plan")
    empty = tmp_path / "runs" / "empty"
    empty.mkdir()
    assert rules(diagnose(Run(empty))) == ["no-plan"]


def flat(step: int) -> float:
    return 2.5


def test_losses_that_do_not_fall(tmp_path: Path) -> None:
    low = only(Story(tmp_path, "low", training={"learning_rate": 1e-6}).began().logs(flat).end(), "loss-flat")
    assert low.why == "the learning rate is too low"
    assert commands(low)[0] == f"tune train {tmp_path}/runs/low/recipe.yaml training.learning_rate=0.0002"
    assert low.evidence[0] == "first third 2.510, last third 2.505 (-0.2 %), noise 0.037, over 40 logged losses"
    high = only(Story(tmp_path, "high", training={"learning_rate": 1e-2}).began().logs(flat).end(), "loss-flat")
    assert "too high" in high.why
    warm = only(Story(tmp_path, "warm", training={"warmup_steps": 350}).began().logs(flat).end(), "loss-flat")
    assert warm.cures[0] == (
        f"tune train {tmp_path}/runs/warm/recipe.yaml training.warmup_steps=20",
        "less warmup: 350 of 400 steps are",
    )
    rises = only(Story(tmp_path, "rises").began().logs(lambda s: 2.0 + s / 400).end(), "loss-rises")
    assert rises.what == "the training loss rises"
    for name, loss in {
        "falls": falling,
        "slowly": lambda s: 2.5 - s / 4000,
        "floor": lambda s: 2.5 if s > 100 else 6.0,
    }.items():
        assert Story(tmp_path, name).began().logs(loss).end().causes == (), name
    begun = Story(tmp_path, "begun", training={"warmup_steps": 100}).began().logs(flat, range(10, 151, 10))
    assert begun.end("running", None, step=150).causes == ()
    nothing = Story(tmp_path, "nothing").began().logs(flat, grad_norm=0.0).end()
    assert (only(nothing, "no-gradient").severity, nothing.failed) == ("fail", True)


def test_overfitting_and_plateaus(tmp_path: Path) -> None:
    story = (
        Story(tmp_path, "over")
        .began()
        .logs(lambda s: 2.5 - s / 300)
        .evals(2.3, 2.1, 2.0, 2.05, 2.12, 2.2, 2.3, 2.4)
        .save(150, 400)
    )
    cause = only(story.end(adapter="adapter"), "overfitting")
    assert cause.what == "it overfits since step 150 (epoch 0.75)"
    assert cause.evidence[2] == "best 2.000 at step 150, epoch 0.75; now 2.400 (+20 %)"
    assert commands(cause)[1:3] == [
        "tune runs pin over 150",
        f"tune train {tmp_path}/runs/over/recipe.yaml training.num_train_epochs=1",
    ]
    worse = (
        Story(tmp_path, "worse")
        .began()
        .logs(lambda s: 2.5 - s / 300 if s < 150 else 2.2)
        .evals(2.3, 2.1, 2.0, 2.05, 2.12, 2.2)
    )
    assert rules(worse.end(step=400)) == ["evaluation-rises"]
    noisy = Story(tmp_path, "noisy").began().logs(falling).evals(2.3, 2.1, 1.95, 1.97, 1.9, 1.85, 1.86)
    assert noisy.end().causes == ()
    stuck = Story(tmp_path, "stuck").began().logs(lambda s: 2.9 - s / 1000).evals(2.8, 2.6, 2.5, 2.502, 2.499, 2.501)
    cause = only(stuck.end(), "plateau")
    assert cause.severity == "advice"
    assert cause.what == "the evaluation has not moved since step 150: 2.500"
    assert "2.3 to 2.5 is a floor for dialogue" in cause.why
    ending = Story(tmp_path, "ending").began().logs(falling, learning_rate=lambda s: 2e-4 * (1 - s / 401))
    assert ending.evals(2.4, 2.0, 1.7, 1.5, 1.5, 1.499, 1.498, 1.498).end().causes == ()


def test_jumps_overflows_and_gaps(tmp_path: Path) -> None:
    jumpy = Story(tmp_path, "jumpy").began().logs(falling)
    for step in (100, 150, 200):
        jumpy.event("spike", step=step, loss=9.5, median=1.5, rows=[{"row": 1, "places": ["a.jsonl:7"]}])
    cause = only(jumpy.end(), "spikes")
    assert (cause.severity, cause.why) == ("warn", "the learning rate is too high")
    assert cause.evidence[0] == "step 100: 9.500, usual is 1.500: a.jsonl:7"
    scaled = Story(tmp_path, "scaled", training={"bf16": False, "fp16": True}).began()
    scaled.logs(falling, grad_norm=lambda s: None if s % 30 == 0 else 0.5)
    cause = only(scaled.end(), "fp16-overflow")
    assert commands(cause)[0].endswith("training.bf16=true training.fp16=false")
    wide = Story(tmp_path, "wide").began().logs(falling).evals(2.4, 2.0, 1.9, 1.85, 1.8, 1.78, 1.76, 1.74)
    assert only(wide.end(), "gap").severity == "advice"
    cut = Story(tmp_path, "cut").began(data={"rows": 100, "cut": 12, "max_length": 512}).logs(falling).end()
    assert only(cut, "cut-answers").what == "12 of 100 answers are cut at 512 tokens"


def test_what_is_proposed_where_answers_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No longer rows than the model reads, and none that would still be cut as if they were not."""
    inspect = "says which, and what other lengths would cut"
    for number, (context, longest, limit, kind, expected) in enumerate((
        (None, None, 512, "messages", [("training.max_length=1024", "longer rows, more memory")]),
        (8192, 5058, 1024, "messages", [("training.max_length=5120", "holds the longest row; more memory")]),
        (1024, 5058, 1024, "messages", [("data.truncation=drop", "the model reads 1,024 tokens at most: leaves longer rows out")]),
        (2048, 5058, 1024, "text", [("training.max_length=2048", "longer rows, more memory"),
                                    ("data.truncation=drop", "the model reads 2,048 tokens at most: leaves longer rows out"),
                                    ("data.truncation=split", "makes several rows of a longer one")]),
    )):  # fmt: skip
        config = {"max_position_embeddings": context} if context else None
        monkeypatch.setattr("nothing_tune.run.doctor.cuts.Plan.from_json", lambda data: data)
        monkeypatch.setattr("nothing_tune.run.doctor.cuts.config_of", lambda plan, fetch, c=config: (c, "here"))
        story = Story(tmp_path, f"cut{number}")
        story.began(data={"rows": 100, "cut": 12, "max_length": limit, "format": kind}).logs(falling)
        written(
            story.run.path / "forecast.json",
            {"rows": {"lengths": [[1, 64, 90], [4096, longest + 1, 10]] if longest else []}},
        )
        cures = only(story.end(), "cut-answers").cures
        assert [(c.rpartition(" ")[2], w) for c, w in cures[:-1]] == expected
        assert cures[-1][1] == inspect


def test_speed_memory_and_what_else_broke(tmp_path: Path) -> None:
    slow = Story(
        tmp_path,
        "slow",
        training={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "packing": False},
    )
    found = slow.began().logs(falling, tokens_per_s=150.0, memory_gib=5.0).end()
    share = utilisation(read(slow.run))
    assert share == pytest.approx(150 * (6 * 3.2e9 + 2 * 2.4e7) / 121e12)
    cause = only(found, "slow")
    assert cause.evidence[0] == "150 tokens/s, 2.4 % of what a l4 is rated for"
    assert "training.per_device_train_batch_size=2 training.gradient_accumulation_steps=8" in commands(cause)[0]
    on_cpu = Story(tmp_path, "cpu", gpu={"name": "cpu"}).began(device="cpu").logs(falling, tokens_per_s=5.0).end()
    assert on_cpu.causes == ()
    tired = Story(tmp_path, "tired").began().logs(falling, tokens_per_s=lambda s: 4000 if s < 150 else 1500).end()
    assert only(tired, "slowing").what == "it slows down: 4,000 tokens/s in the first third, 1,500 in the last"
    full = Story(tmp_path, "full").began().logs(falling, memory_gib=22.1).end()
    assert only(full, "memory-tight").severity == "advice"
    warned = Story(tmp_path, "warned").began().logs(falling)
    warned.event(
        "warning", what="the tracker wandb is switched off: its process ended with code 1", hint="training goes on"
    )
    warned.event("warning", what="checkpoint.on_commit failed for checkpoint-50: it ended with 1", hint="")
    warned.event("warning", what="the disk is full: checkpoint-30 removed to make room", hint="")
    found = warned.end()
    assert sorted(rules(found)) == ["disk", "hook", "tracker"]
    assert not found.failed
    saved = Story(tmp_path, "saved").began().logs(falling)
    written(
        saved.run.path / "adjustments.json",
        [{"what": "micro batch 8 -> 4", "step": 3, "training": {"per_device_train_batch_size": 4}}],
    )
    assert only(saved.end(), "adjusted").evidence == ("step 3: micro batch 8 -> 4",)


def test_what_a_resumed_run_did_again_counts_once(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.began().logs(falling, range(10, 101, 10))
    story.end("running", None)
    again = [{"time": time.time(), "attempt": 2, "type": "log", "step": s, "metrics": {"loss": 9.0}} for s in (60, 70)]
    with open(story.run.path / "events.jsonl", "a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(line) + "\n" for line in again)
    logs = read(story.run).logs
    assert [log.step for log in logs] == [10, 20, 30, 40, 50, 60, 70]
    assert logs[-1].loss == 9.0


def test_a_process_here_that_works_on_it_is_named(tmp_path: Path) -> None:
    story = Story(tmp_path).began().attempt(ended=None, heartbeat=time.time(), pid=os.getpid(), **attempts.place())
    found = story.end("running", None, step=40, status={"host": socket.gethostname(), "pid": os.getpid()})
    assert found.summary.endswith(f"process {os.getpid()} on {socket.gethostname()} works on it")
    assert found.facts["held_by"]["pid"] == os.getpid()


def test_a_worker_that_outlives_its_supervisor(tmp_path: Path) -> None:
    """It saved and stopped, and is still there: both are said, and neither as if the other were not."""
    story = Story(tmp_path).began().save(9)
    story.attempt(
        ended=None, heartbeat=time.time(), pid=os.getpid(), state="running", exit_code=None, **attempts.place()
    )
    found = story.end("preempted", 75, "ended from outside (SIGTERM)", step=9)
    assert found.summary.endswith(f"process {os.getpid()} on {socket.gethostname()} is still ending")
    cause = only(found, "ended-from-outside")
    assert cause.what == "its supervisor ended without a word, and the worker then saved and stopped"
    assert cause.why == "the supervisor alone was ended: kill -9, or the kernel out of memory"
    assert cause.cures == (("tune resume story", f"continues at step 9, once process {os.getpid()} has ended"),)


def test_a_process_that_is_swapped_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "99999").mkdir()
    (tmp_path / "99999" / "status").write_text("Name: python\nVmRSS:  100 kB\nVmSwap:  3145728 kB\n")
    monkeypatch.setattr(pace, "PROC", tmp_path)
    story = Story(tmp_path).began().attempt(ended=None, heartbeat=time.time(), pid=os.getpid(), **attempts.place())
    found = story.end("running", None, step=40, status={"worker": 99999})
    assert only(found, "swapping").what == "3.0 GiB of its memory are swapped out to the disk"


def test_ends_that_no_result_tells(tmp_path: Path) -> None:
    full = (
        Story(tmp_path, "full")
        .began()
        .log("Traceback\nOSError: [Errno 28] No space left on device\n")
        .attempt(ended=None)
    )
    found = full.end("running", None, step=40, status={"heartbeat": time.time() - 3600})
    assert [(c.rule, c.severity) for c in found.causes] == [("disk", "fail"), ("lost", "fail")]
    told = Story(tmp_path, "told").began().attempt(exit_code=5, error="ValueError: x", step=40, state="failed")
    assert only(told.end("failed", None, step=40), "failed").what == "ValueError: x"
    ours = Story(tmp_path, "ours").began().end("failed", 1, "a bug in nothing-tune: KeyError: 'x'", step=0)
    assert only(ours, "bug").why == "a mistake of ours, not of yours"


def test_no_rule_falls_over_nonsense(tmp_path: Path) -> None:
    """Files with all the wrong types: each rule says something or nothing, and none raises."""
    story = Story(
        tmp_path,
        training={"learning_rate": "fast", "warmup_steps": None, "eval_steps": "x", "max_length": "long"},
        gpu={},
        peft=None,
    )
    story.event("start", total_parameters="many", data=None).event("spike").event("non_finite", rows="x").event(
        "hang"
    ).event("torn")
    story.event("log", step=1, metrics=None).event("log", step=2, metrics={"loss": "x"}).event(
        "eval", step=3, metrics={"eval_loss": "x"}
    )
    found = story.end("failed", 70, "x", status={"progress": "x", "step": "x", "total_steps": None})
    assert "diverged" in rules(found)
    assert [c.what for c in found.causes if c.rule == "doctor"] == []
    assert len(ENDINGS) + len(CURVES) + len(PACE) >= 28


def test_slopes() -> None:
    line = trend([(0, 1.0), (1, 2.0), (2, 3.0)])
    assert line is not None
    assert (line.slope, line.change, line.t) == (1.0, 2.0, math.inf)
    level = trend([(0, 1.0), (1, 1.2), (2, 0.8), (3, 1.0)])
    assert level is not None
    assert abs(level.t) < 2
    assert trend([(0, 1.0), (1, 2.0)]) is None
    assert trend([(1, 1.0)] * 5) is None
