"""The command line as a function, and run directories made of synthetic events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nothing_tune
from nothing_tune.artifacts import Run, append_event, write_json
from nothing_tune.cli import live
from nothing_tune.cli.app import main

ID = "20261120-214500-demo-l4-9f3a"
PLAN = {
    "name": "demo",
    "gpu": {"name": "l4", "vendor_names": ["NVIDIA L4"], "memory_gb": 24},
    "values": {"name": "demo"},
    "model": {"name_or_path": "org/model"},
    "data": {"train": "rows.jsonl", "eval": 0.1},
    "quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "peft": {"peft_type": "LORA", "r": 16, "lora_alpha": 32},
    "training": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        "num_train_epochs": 3,
        "max_length": 1024,
        "bf16": True,
    },
    "tracking": {"tracker": "none"},
    "monitor": {},
    "checkpoint": {},
    "trainable_dtype": None,
    "world_size": 1,
    "why": {"training.bf16": "derived: l4 computes in bfloat16", "name": "demo.yaml (demo.yaml:1:7)"},
    "version": 1,
}


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The views look at a run more often, so that the tests wait less."""
    monkeypatch.setattr(live, "POLL_S", 0.02)
    monkeypatch.setattr(live, "PLAIN_POLL_S", 0.02)


@dataclass(frozen=True)
class Output:
    """What one command line gave."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its stdout as JSON."""
        return json.loads(self.out)


@dataclass
class Demo:
    """A run directory that a test writes as an engine would."""

    run: Run

    def event(self, kind: str, **fields: Any) -> None:
        append_event(self.run.path / "events.jsonl", {"time": time.time(), "attempt": 1, "type": kind, **fields})

    def status(self, state: str = "running", **fields: Any) -> None:
        now = time.time()
        known = {"host": "elsewhere", "recipe": "demo", "gpu": "l4", "attempt": 1, "heartbeat": now, "created": now}
        write_json(self.run.path / "status.json", {"state": state, **known, **fields})

    def log(self, step: int, loss: float, **fields: Any) -> None:
        extra = {"tokens_per_s": 812.3, "memory_gib": 1.24, "eta_s": 41.9, **fields}
        self.event("log", step=step, epoch=step / 10, metrics={"loss": loss, "learning_rate": 1.9e-4}, **extra)

    def result(self, state: str = "done", code: int = 0, **fields: Any) -> None:
        self.status(state, step=fields.get("step"), total_steps=20, eval_loss=0.9)
        base = {"state": state, "exit_code": code, "attempt": 1, "error": None, "metrics": {}, "adapter": None}
        write_json(self.run.path / "result.json", {**base, **fields})


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in a folder of its own, without colours and without the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TUNE_RUNS_DIR", "TUNE_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(nothing_tune.__file__).parents[1]))


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """`tune("list", "gpus")` runs the command line in this process."""

    def call(*argv: str) -> Output:
        capsys.readouterr()
        code = main(list(argv))
        said = capsys.readouterr()
        return Output(code, said.out, said.err)

    return call


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    """A run that the engine has just been started on, in ./runs."""
    path = tmp_path / "runs" / ID
    path.mkdir(parents=True)
    write_json(path / "plan.json", PLAN)
    (path / "recipe.yaml").write_text("name: demo\n")
    write_json(path / "lock.json", {"layers": ["base/qlora", "demo.yaml"]})
    made = Demo(Run(path))
    made.status("starting")
    return made
