"""What the rules forbid, upstream refuses too: each rule that quotes the libraries is held against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nothing_tune.recipe import rules

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


def trains(given: dict[str, Any], bits: int) -> bool:
    """Whether PEFT makes and trains an adapter on two layers of 4, 8 or 32 bits."""
    import bitsandbytes as bnb
    import torch
    from peft import get_peft_config, get_peft_model

    def layer() -> Any:
        if bits == 4:
            return bnb.nn.Linear4bit(128, 128, bias=False, quant_type="nf4", compute_dtype=torch.float32)
        if bits == 8:
            return bnb.nn.Linear8bitLt(128, 128, bias=False, has_fp16_weights=False)
        return torch.nn.Linear(128, 128, bias=False)

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj = layer(), layer()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.k_proj(self.q_proj(x))

    try:
        model = get_peft_model(Tiny().to("cpu"), get_peft_config({"target_modules": ["q_proj", "k_proj"], **given}))
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trainable, lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(4, 128)).float().pow(2).mean().backward()
            optimizer.step()
    except (RuntimeError, TypeError, ValueError):
        return False
    return bool(trainable)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*rules.NOT_QUANTISED, *rules.NOT_4BIT])
def test_methods_that_need_full_weights(kind: str) -> None:
    given = {"peft_type": kind}
    assert trains(given, 32)
    assert not trains(given, 4)
    if kind in rules.NOT_QUANTISED:
        assert not trains(given, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "mica", "orthogonal"])
def test_starts_that_need_full_weights(start: str) -> None:
    given = {"peft_type": "LORA", "init_lora_weights": start}
    assert trains(given, 32)
    assert not trains(given, 4)
    assert not trains(given, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "given",
    [
        {"peft_type": "LORA"},
        {"peft_type": "LORA", "init_lora_weights": "olora"},
        {"peft_type": "LORA", "use_dora": True},
        {"peft_type": "VERA", "r": 16},
        {"peft_type": "IA3", "feedforward_modules": ["k_proj"]},
    ],
)
def test_methods_that_no_rule_forbids_train_on_four_bits(given: dict[str, Any]) -> None:
    assert trains(given, 4)


def test_methods_that_cannot_be_merged() -> None:
    """PEFT has no `merge` on the layers of these types, or one that only raises; all others have one."""
    import importlib
    import inspect
    import pkgutil

    import peft.tuners
    from peft.tuners.tuners_utils import BaseTunerLayer

    from nothing_tune.recipe.rules_export import NOT_MERGED
    from nothing_tune.recipe.upstream import peft_types

    merging = set()
    for package in pkgutil.iter_modules(peft.tuners.__path__):
        for part in ("layer", "model"):
            try:
                module = importlib.import_module(f"peft.tuners.{package.name}.{part}")
            except ModuleNotFoundError:
                continue
            for one in vars(module).values():
                if inspect.isclass(one) and issubclass(one, BaseTunerLayer) and one.__module__ == module.__name__:
                    lines = inspect.getsource(one.merge)
                    if "def merge" in lines and "NotImplementedError" not in lines.split("def merge", 1)[1][:300]:
                        merging.add(package.name.upper())
    assert {kind for kind in peft_types() if kind not in merging} == set(NOT_MERGED)
