"""The arithmetic of memory against the simulation, over shapes that neither was made with: they share no formula.

Fails when a library's update changes what a step keeps and only one of them knows.
"""

from __future__ import annotations

import statistics
from itertools import product
from typing import Any

import pytest

from nothing_tune.engine.simulate import simulate
from nothing_tune.plan import Plan, make_plan
from nothing_tune.plan.architecture import shape
from nothing_tune.plan.memory import estimate
from nothing_tune.recipe import load_recipe

pytestmark = pytest.mark.engine


def config(kind: str, hidden: int, heads: int, keys: int, inner: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": 5, "num_attention_heads": heads,
        "num_key_value_heads": keys, "intermediate_size": inner, "vocab_size": vocabulary, "tie_word_embeddings": False,
        "max_position_embeddings": 8192, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **more,
    }  # fmt: skip


MODELS = {
    "llama": config("llama", 3072, 24, 8, 8192, 128256, head_dim=128, tie_word_embeddings=True),
    "qwen2": config("qwen2", 3584, 28, 4, 18944, 152064),
    "qwen3": config("qwen3", 2560, 32, 8, 9728, 151936, head_dim=128),
    "mistral": config("mistral", 2560, 32, 8, 8960, 32768),
    "gemma2": config("gemma2", 2304, 8, 4, 9216, 256000, head_dim=256, tie_word_embeddings=True),
    "phi3": config("phi3", 3072, 32, 32, 8192, 32064),
    "granite": config("granite", 2048, 32, 8, 8192, 49155),
    "smollm3": config("smollm3", 2048, 16, 4, 11008, 128256, tie_word_embeddings=True),
}
METHODS = ("lora", "qlora", "dora", "full")
BATCHES = ((2, 768), (8, 256))


def planned(method: str, kind: str, checkpointing: bool) -> Plan:
    words = [
        "model.name_or_path=org/none", "data.train=rows.jsonl", f"training.activation_checkpointing={str(checkpointing).lower()}",
        f"model.attn_implementation={'eager' if kind == 'gemma2' else 'sdpa'}",
    ]  # fmt: skip
    return make_plan(load_recipe(f"methods/{method}", gpu="l4", overrides=words))


def off(kind: str, method: str, batch: tuple[int, int], checkpointing: bool) -> float:
    """How far the arithmetic is from the simulation, as a share of it."""
    plan = planned(method, kind, checkpointing)
    counted = simulate({"plan": plan.to_json(), "config": MODELS[kind], "rows": batch[0], "length": batch[1]})["peak"]
    return estimate(shape(MODELS[kind]), plan, *batch).allocated / counted - 1


def test_some_of_the_grid() -> None:
    cases = [("mistral", "qlora"), ("phi3", "lora"), ("granite", "full")]
    errors = [off(kind, method, BATCHES[n % 2], bool(n % 2)) for n, (kind, method) in enumerate(cases)]
    assert max(map(abs, errors)) < 0.10, errors
    assert statistics.median(map(abs, errors)) < 0.05, errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_the_grid(kind: str) -> None:
    cases = list(product(METHODS, BATCHES, (True, False)))
    errors = {case: off(kind, *case) for case in cases}
    assert len(errors) == 16
    assert max(map(abs, errors.values())) < 0.10, errors
    assert statistics.median(map(abs, errors.values())) < 0.05, errors
