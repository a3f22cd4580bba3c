"""Run directories with checkpoints of made-up bytes, made without an engine."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from nothing_tune import run as runs
from nothing_tune.artifacts import Run, append_event, checkpoint, write_json
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe

RECIPE = """\
layers: [base/qlora, methods/qlora, models/nano]
name: tiny
data: {train: rows.jsonl, eval: null}
training: {eval_strategy: "no", load_best_model_at_end: false, max_steps: 40, save_steps: 10}
"""
FILES = {
    "adapter_model.safetensors": b"weights",
    "adapter_config.json": b"{}",
    "optimizer.pt": b"optimizer",
    "scheduler.pt": b"scheduler",
    "rng_state.pth": b"random",
    "tune-state.json": b"{}",
}


def prepared(folder: Path, name: str = "parent", *overrides: str) -> Run:
    """A run made of a real recipe in `folder`/runs, which the engine was never started on."""
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    (folder / "tiny.yaml").write_text(RECIPE)
    recipe = load_recipe(folder / "tiny.yaml", gpu="cpu", overrides=overrides)
    return runs.prepare(recipe, make_plan(recipe), root=folder / "runs", name=name)


def save(run: Run, step: int, *, epoch: float = 1.0, **files: bytes) -> Path:
    """A complete checkpoint of `step`, with an event, as an engine would write it."""
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    state = json.dumps({"global_step": step, "epoch": epoch}).encode()
    for file, data in {**FILES, "trainer_state.json": state, **files}.items():
        (folder / file).write_bytes(data)
    checkpoint.commit(folder, step=step, attempt=1, run=run.id, fingerprints={"data": "abc"})
    event(run, "checkpoint", step=step, path=f"checkpoints/{folder.name}", best=False)
    return folder


def event(run: Run, kind: str, *, attempt: int = 1, **fields: Any) -> None:
    """One event, now."""
    append_event(run.path / "events.jsonl", {"time": time.time(), "attempt": attempt, "type": kind, **fields})


def end(run: Run, state: str = "done", **fields: Any) -> None:
    """The result and the status of a run that is over."""
    write_json(run.path / "result.json", {"state": state, "exit_code": 0, "error": None, "metrics": {}, **fields})
    write_json(run.path / "status.json", {**run.status(), "state": state})


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """Writes a safetensors file of `name -> (dtype, shape, bytes)`."""
    header, data = {}, b""
    for name, (kind, shape, content) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def flip(path: Path, at: int = -1) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
