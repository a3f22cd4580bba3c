"""What the rules forbid, upstream refuses too: each rule that quotes the libraries is held against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fp16": True, "bf16": True}, "At most one of fp16 and bf16"),
        ({"load_best_model_at_end": True}, "requires the save and eval strategy to match"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 100, "save_steps": 250},
            "round multiple",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 250},
            "mixing ratio and absolute",
        ),
        ({"eval_strategy": "steps", "eval_steps": 2.5}, "must be an integer if bigger than 1"),
        ({"save_steps": 2.5}, "must be an integer if bigger than 1"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "requires an eval strategy"),
        ({"lr_scheduler_type": "greedy"}, "requires an eval strategy"),
        ({"dataloader_prefetch_factor": 2}, "num_workers > 0"),
        ({"warmup_steps": -1}, "warmup_steps >= 0"),
        ({"logging_steps": 0}, "non-zero"),
        ({"optim": "adamw"}, "is not a valid OptimizerNames"),
        ({"eval_strategy": "sometimes"}, "is not a valid IntervalStrategy"),
    ],
)
def test_training(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    from trl import SFTConfig

    with pytest.raises(ValueError, match=said):
        SFTConfig(**{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, **given})


@pytest.mark.parametrize(
    "name", ["warmup_ratio", "max_seq_length", "evaluation_strategy", "group_by_length", "logging_dir"]
)
def test_removed_names(name: str) -> None:
    from trl import SFTConfig

    with pytest.raises(TypeError, match=name):
        SFTConfig(**{name: 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"peft_type": "LORA", "init_lora_weights": "loftq"}, "loftq_config"),
        ({"peft_type": "LORA", "target_modules": "all-linear", "layers_to_transform": [0]}, "cannot be used when"),
        ({"peft_type": "LORA", "target_modules": ["q"], "layers_pattern": "h"}, "layers_to_transform"),
        ({"peft_type": "LORA", "lora_bias": True, "use_dora": True}, "lora_bias"),
        ({"peft_type": "LORA", "lora_bias": True, "init_lora_weights": "pissa"}, "lora_bias"),
        ({"peft_type": "ADALORA"}, "total_step"),
        ({"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": ["d"]}, "subset"),
    ],
)
def test_peft(given: dict[str, Any], said: str) -> None:
    from peft import get_peft_config

    with pytest.raises((ValueError, ImportError), match=f"{said}|scipy"):
        get_peft_config(given)


def test_quantization() -> None:
    from transformers import BitsAndBytesConfig

    with pytest.raises(ValueError, match="both True"):
        BitsAndBytesConfig(load_in_4bit=True, load_in_8bit=True)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "mica", "corda"])
def test_starts_that_need_full_weights(start: str) -> None:
    import bitsandbytes as bnb
    import torch
    from peft import LoraConfig, get_peft_model

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = bnb.nn.Linear4bit(64, 64, quant_type="nf4")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q_proj(x)

    model = Tiny().to("cpu")
    with pytest.raises((TypeError, ValueError)):
        get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=start))
