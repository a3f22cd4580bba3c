"""A run directory as the engine writes it, made by hand: for the light tests of what is read out of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, write_json

TOKEN = "hf_thisIsNoRealTokenAtAll00000"


def run_of(folder: Path, **changes: Any) -> Run:
    """A run that was killed at step 30 and resumed at 20, with plan, forecast, events and result; `changes` go into the plan."""
    run = Run(folder / "20261101-120000-x-l4-aaaa")
    run.path.mkdir(parents=True)
    data = folder / "secret-customer" / "rows.jsonl"
    data.parent.mkdir()
    data.write_text("{}\n")
    (data.parent / "rows.jsonl.card.json").write_text(
        json.dumps({"made_by": "nothing-tune 0.1.0", "rows": 1, "command": "tune data"})
    )
    values = {
        "name": "x", "description": "talks about nothing", "training": {"max_length": 1024, "learning_rate": 2e-4},
        "model": {"name_or_path": "meta-llama/Llama-3.2-3B-Instruct", "license": "llama3.2", "gated": True},
        "data": {"train": [str(data), "org/rows"]}, "gpu": {"name": "l4"},
    }  # fmt: skip
    plan = {
        "version": 2, "name": "x", "gpu": {"name": "l4"}, "values": values, "quantization": {"load_in_4bit": True},
        "peft": {"peft_type": "LORA", "r": 32, "lora_alpha": 32, "target_modules": "all-linear"},
        "model": {"name_or_path": "meta-llama/Llama-3.2-3B-Instruct", "revision": "abc", "init": {"dtype": "bfloat16"}},
        "data": {"train": [str(data), "org/rows"], "eval": 0.1, "format": "messages"},
        "training": {"max_length": 1024, "learning_rate": 2e-4}, "checkpoint": {"metric": "eval_loss"},
    }  # fmt: skip
    write_json(run.path / "plan.json", {**plan, **changes})
    lock = {"python": "3.11.7", "layers": ["base/qlora", "gpus/l4"], "packages": {"torch": "2.13.0"}}
    write_json(run.path / "lock.json", {**lock, "data": {str(data): {"bytes": 3, "sha256": "ab" * 32}}})
    write_json(run.path / "status.json", {"state": "done", "created": 1000.0, "step": 60})
    metrics = {"num_tokens": 36_000, "trained_s": 3600.0, "eval_loss": 1.5}
    write_json(
        run.path / "result.json", {"state": "done", "step": 60, "epoch": 2.0, "metrics": metrics, "duration_s": 1800.0}
    )
    write_json(run.path / "machine.json", {"engine": {"device": "cuda:0", "gpu": "NVIDIA L4", "memory_gib": 22.0}})
    memory = {"longest": {"peak": 6 * 2**30, "low": 5 * 2**30, "high": 7 * 2**30}}
    cost = {"provider": "modal", "usd": 1.6, "low": 0.8, "high": 2.4, "usd_per_hour": 0.8, "gpus": 1}
    forecast = {
        "rows": {"train": 480},
        "maths": {"total": 60},
        "memory": memory,
        "hours": [2.0, 1.0, 3.0],
        "costs": [cost],
    }
    write_json(run.path / "forecast.json", {**forecast, "model": {"family": "llama", "parameters": 3_212_749_824}})
    for number, (begun, ended) in enumerate(((1000.0, 2800.0), (3000.0, 4800.0)), 1):
        path = run.path / "attempts" / f"{number:04}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"attempt": number, "created": begun, "ended": ended})
    said: list[dict[str, Any]] = [
        {"type": "start", "train_rows": 480, "trainable_parameters": 48_627_712, "total_parameters": 3_261_377_536, "total_steps": 60,
         "supervised_tokens": 9000, "data": {"rows": 480, "eval_rows": 53, "duplicates": 4, "bad": 0}},
        *({"type": "log", "step": s, "metrics": {"loss": 4.0 - s / 20}, "memory_gib": 5.5} for s in (10, 20, 30)),
        {"type": "eval", "step": 20, "epoch": 0.7, "metrics": {"eval_loss": 2.0}},
        {"type": "resume", "step": 20},
        *({"type": "log", "step": s, "metrics": {"loss": 3.0 - s / 40}, "memory_gib": 6.5} for s in (40, 50, 60)),
        {"type": "eval", "step": 60, "epoch": 2.0, "metrics": {"eval_loss": 1.5}},
        {"type": "warning", "what": f"cannot reach https://u:password@host with {TOKEN}"},
        {"type": "best", "step": 60, "epoch": 2.0, "eval_loss": 1.5},
    ]  # fmt: skip
    (run.path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in said) + '{"torn')
    (run.path / "evaluations").mkdir()
    loss = {"value": 1.5, "low": 1.4, "high": 1.6, "n": 53}
    told = {
        "schema": 1,
        "name": "held-out",
        "step": 60,
        "metrics": {"loss": loss, "exact_match": {"value": 0.5}},
        "time": 5.0,
    }
    write_json(run.path / "evaluations/held-out.json", {**told, "base": {"loss": {"value": 3.0}}})
    (run.path / "evaluations/torn.json").write_text("{")
    return run
