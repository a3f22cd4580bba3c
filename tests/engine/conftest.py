"""A tiny random Llama with a ChatML tokenizer, rows for it, and plans that train it in a second."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, write_json
from nothing_tune.plan.model import PLAN_VERSION
from tests.engine.support import WORDS, MakeRun, put, tiny_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model most tests train."""
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short conversations."""
    chance = random.Random(1)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = []
    for _ in range(40):
        turns = [
            {"role": "user", "content": " ".join(chance.choices(WORDS, k=4))},
            {"role": "assistant", "content": " ".join(chance.choices(WORDS, k=5))},
        ]
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def make_run(tmp_path: Path, model_dir: Path, rows_file: Path) -> MakeRun:
    """`make_run("name", **{"training.max_steps": 4})`: a run directory whose plan trains the tiny model."""

    def make(name: str = "run-0001", **changes: Any) -> Run:
        plan: dict[str, Any] = {
            "version": PLAN_VERSION,
            "name": "tiny",
            "gpu": {"name": "cpu"},
            "values": {"name": "tiny"},
            "model": {
                "name_or_path": str(model_dir), "revision": None, "trust_remote_code": False,
                "init": {"dtype": "float32", "attn_implementation": "sdpa"},
            },
            "data": {"train": str(rows_file), "eval": 0.2, "format": "auto", "seed": 42, "max_samples": None, "chat_template": None},
            "quantization": None,
            "peft": {
                "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear",
            },
            "training": {
                "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 6,
                "learning_rate": 1e-3, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps",
                "save_steps": 2,
                "report_to": "none", "save_total_limit": None, "load_best_model_at_end": False, "logging_nan_inf_filter": False,
                "disable_tqdm": True, "activation_checkpointing": False, "max_length": 128, "seed": 42,
            },
            "tracking": {"tracker": "none"},
            "monitor": {},
            "checkpoint": {"best": False, "metric": "eval_loss", "greater_is_better": False, "keep": 2},
            "trainable_dtype": None,
            "world_size": 1,
            "why": {},
        }  # fmt: skip
        put(plan, changes)
        run = Run(tmp_path / name)
        run.path.mkdir()
        write_json(run.path / "plan.json", plan)
        return run

    return make


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves this folder alone in a light run: collecting it would import torch."""
    return True if "not engine" in (config.option.markexpr or "") else None
