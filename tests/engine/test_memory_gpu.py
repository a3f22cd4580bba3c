"""Predicted against measured, on a GPU: the recipes' architectures at full size with random weights, one batch of the longest rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, write_json
from nothing_tune.plan import make_plan
from nothing_tune.plan.rows import Rows
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import library_root
from nothing_tune.recipe.machine import this_machine
from nothing_tune.run.architecture import config_of
from nothing_tune.run.forecast import forecast
from tests.engine.support import events, train

pytestmark = [pytest.mark.engine, pytest.mark.gpu]

CASES = [
    ("models/llama-3.2-1b-instruct", "qlora", 8, 1024),
    ("models/llama-3.2-1b-instruct", "lora", 2, 1024),
    ("models/llama-3.2-3b-instruct", "qlora", 8, 1024),
    ("models/qwen2.5-3b-instruct", "qlora", 4, 2048),
    ("models/llama-2-7b", "qlora", 2, 2048),
]


def random_weights(folder: Path, config: dict[str, Any]) -> Path:
    """A model of `config` with random weights in bfloat16, and the shipped model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shipped = library_root() / "models" / "nano"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (shipped / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(shipped / name, folder / name)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("layer", "method", "micro", "length"), CASES)
def test_predicted_is_measured(layer: str, method: str, micro: int, length: int, tmp_path: Path) -> None:
    machine = this_machine()
    first = make_plan(
        load_recipe(f"methods/{method}", with_=[layer], machine=machine, overrides=["data.train=x.jsonl"])
    )
    config, _ = config_of(first, fetch=False)
    assert config
    folder = random_weights(tmp_path / "model", config)
    long = [{"text": "word " * 2 * length}] * micro  # one batch is cut to the longest there can be
    rows = [*long, *({"text": "word " * n} for n in range(9, 9 + 3 * micro))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"model.name_or_path={folder}", f"data.train={tmp_path / 'rows.jsonl'}", "data.eval=null", "data.dedupe=none",
        "training.eval_strategy=no", "training.load_best_model_at_end=false", "training.max_steps=2",
        f"training.per_device_train_batch_size={micro}", f"training.max_length={length}", "monitor.rehearse=true",
        "training.logging_steps=1",
    ]  # fmt: skip
    plan = make_plan(load_recipe(f"methods/{method}", with_=[layer], machine=machine, overrides=words))
    told = forecast(plan, Rows("tokenised", micro * 4, 0, micro * 4, longest=length), fetch=False, runs=tmp_path)
    assert told.memory
    run = Run(tmp_path / "run-0001")
    run.path.mkdir()
    write_json(run.path / "plan.json", plan.to_json())
    assert train(run)["state"] == "done"
    measured = max(e["memory_gib"] for e in events(run, "log")) * 2**30
    assert abs(told.memory.longest.allocated / measured - 1) < 0.10, (told.memory.longest, measured / 2**30)
