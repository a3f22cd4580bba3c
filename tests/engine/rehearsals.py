"""Rehearsals in the test's own process: no time for starts, and faults can be put in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nothing_tune.engine import rehearse
from nothing_tune.engine.rehearse import children
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe
from tests.engine.support import CHATML, WORDS, tiny_tokenizer

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "tie_word_embeddings": True, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 2048, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008, "max_position_embeddings": 32768,
        "max_window_layers": 70, "sliding_window": 32768, "use_sliding_window": False, "tie_word_embeddings": True,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "sliding_window": 4096, "tie_word_embeddings": False,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216,
        "max_position_embeddings": 8192, "sliding_window": 4096, "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""Full-size shapes as the families' config.json have them."""
RECIPE = """\
layers: [base/qlora, methods/qlora]
name: tried
model: {name_or_path: %s}
data: {train: rows.jsonl, eval: 0.2}
training: {max_length: 256, learning_rate: 1.0e-3, eval_steps: 2, save_steps: 2}
"""


def full_size(
    folder: Path, family: str = "llama", template: str | None = CHATML, vocabulary: int = 512, **changes: Any
) -> Path:
    """A model's folder as far as a rehearsal needs it: config.json in full size and a tokenizer, no weights."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = {**CONFIGS[family], **ids, "vocab_size": vocabulary, **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
    return folder


def talk(count: int = 24, words: int = 6, answer: str | None = None) -> list[dict[str, Any]]:
    """Rows with `messages`, all different."""
    return [
        {
            "messages": [
                {"role": "user", "content": " ".join(WORDS[(n + k) % 8] for k in range(words)) + f" {n}"},
                {"role": "assistant", "content": answer if answer is not None else f"{WORDS[n % 8]} {n} again"},
            ]
        }
        for n in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Tried:
    """What a rehearsal told: `stages` (`name -> (state, what)`), `notes`, `report`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def send(self, **fields: Any) -> None:
        """Keeps an event."""
        self.events.append(json.loads(json.dumps(fields, default=str)))

    @property
    def stages(self) -> dict[str, tuple[str, str]]:
        """The last state of each stage, with what was said."""
        return {e["stage"]: (e["state"], e.get("what", "")) for e in self.events if e["type"] == "stage"}

    @property
    def notes(self) -> list[str]:
        """What was replaced."""
        return [e["what"] for e in self.events if e["type"] == "note"]

    @property
    def report(self) -> dict[str, Any]:
        """The last event."""
        assert self.events[-1]["type"] == "report"
        return self.events[-1]


class _Done:
    """A worker that has ended."""

    pid = 2**22 + 1

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def wait(self) -> int:
        return self.code

    def send_signal(self, sig: int) -> None:
        """It has ended."""


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets rehearsals do all their work here."""

    def spawner(log: Path, look: Callable[[], None]) -> Any:
        def spawn(run_dir: Path, env: dict[str, str]) -> Any:
            from nothing_tune.engine import worker

            with mock.patch.dict(os.environ, env):
                for name in ("TUNE_OWNER", "TUNE_SUPERVISOR"):
                    os.environ.pop(name, None)
                code = worker.main(run_dir)
            look()
            return _Done(code)

        return spawn

    monkeypatch.setattr(children, "FORKS", False)
    monkeypatch.setattr(children, "spawner", spawner)


def tried(folder: Path, model: Path, *overrides: str, gpu: str = "l4", recipe: str = RECIPE) -> Tried:
    """Rehearses a recipe on `rows.jsonl` in `folder` with `model`; raises what it finds."""
    (folder / "tried.yaml").write_text(recipe % model)
    plan = make_plan(load_recipe(folder / "tried.yaml", gpu=gpu, overrides=list(overrides)))
    place = folder / "rehearsal"
    place.mkdir()
    told = Tried()
    request = {"plan": json.loads(json.dumps(plan.to_json(), default=str)), "config": None, "folder": str(place)}
    with mock.patch.dict(os.environ):
        rehearse.Rehearsal(request, told.send).work()
    return told
