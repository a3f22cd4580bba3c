"""Records of runs for the tests of comparisons and reports: made by hand, as `record.of_run` would give them."""

from __future__ import annotations

import copy
from typing import Any

VALUES = {
    "name": "demo",
    "model": {"name_or_path": "org/base", "facts": {"hidden_size": 64}},
    "data": {"train": "/home/me/rows.jsonl", "eval": 0.1, "format": "messages"},
    "peft": {"peft_type": "LORA", "r": 16, "lora_alpha": 32},
    "training": {
        "learning_rate": 2e-4,
        "max_length": 512,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
    },
    "gpu": {"name": "l4", "memory_gb": 24},
}
MARKS = {"train_tokens": "t1", "eval_tokens": "e1", "tokenizer": "k1", "chat_template": "c1"}


def record(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A run that is done; `changes` replace keys, `values` dotted keys of its recipe."""
    values = copy.deepcopy(VALUES)
    for key, value in changes.pop("values", {}).items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value  # type: ignore[attr-defined]
    made: dict[str, Any] = {
        "id": f"20261121-10000{number}-demo-l4-000{number}", "path": f"/home/me/runs/{number}", "name": "demo", "description": "",
        "state": "done", "parent": None, "error": None, "created": 1_795_209_900.0, "ended": 1_795_210_200.0, "duration_s": 300.0,
        "attempts": 1,
        "base": {"name_or_path": "org/base", "revision": "abc", "licence": "mit", "family": "llama", "parameters": 1_000_000},
        "method": {"name": "lora", "words": "LoRA", "peft": values["peft"], "trainable": 5_000, "total": 1_005_000, "dtype": "bfloat16"},
        "data": {
            "sources": [{"role": "train", "name": "/home/me/rows.jsonl", "shown": "rows.jsonl", "bytes": 2_048, "sha256": "ab" * 32}],
            "held_out": 0.1, "format": "messages", "rows": 90, "eval_rows": 10, "supervised_tokens": 900, "counts": {"cut": 3},
        },
        "recipe": {"layers": ["base/qlora", "demo"], "values": values},
        "curves": {
            "loss": [[1, 3.0], [10, 1.0 + number / 10], [20, 0.5 + number / 10]], "eval": [[10, 1.2], [20, 0.6 + number / 10]],
            "learning_rate": [[1, 1e-4], [20, 1e-6]], "grad_norm": [[1, 2.0], [20, 1.0]], "memory_gib": [[1, 3.0], [20, 3.5]],
            "tokens_per_s": [[1, 900.0], [20, 1100.0]],
        },
        "best": {"step": 20, "metric": "eval_loss", "value": 0.6 + number / 10},
        "metrics": {"last_loss": 0.5 + number / 10, "eval_loss": 0.6 + number / 10, "num_tokens": 30_000, "trained_s": 30.0},
        "steps": 20, "total_steps": 20, "epochs": 2.0, "machine": {"gpu": "l4", "gpu_name": "NVIDIA L4", "cpus": 8},
        "versions": {"python": "3.11.7", "torch": "2.13.0"}, "fingerprints": dict(MARKS), "evaluations": [], "exports": [],
        "warnings": [],
        "plan_against_measured": [
            {"what": "peak memory", "planned": 4 * 2**30, "low": 3 * 2**30, "high": 5 * 2**30, "measured": 3.5 * 2**30, "unit": "bytes"},
            {"what": "cost at modal", "planned": 0.1, "low": None, "high": None, "measured": 0.07, "unit": "usd"},
        ],
    }  # fmt: skip
    return {**made, **changes}


def evaluation(run: str = "one", value: float = 1.0, **changes: Any) -> dict[str, Any]:
    """An evaluation of forty held-out rows with answers."""
    made: dict[str, Any] = {
        "name": "held-out", "run": run, "step": 20, "data": {"kind": "held-out", "sources": ["rows.jsonl"], "digest": "d1"},
        "rows": {"count": 40},
        "metrics": {
            "loss": {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 40},
            "bits_per_byte": {"value": value / 2, "low": None, "high": None, "n": 40},
            "exact_match": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40},
            "length": {"value": 12.0, "low": None, "high": None, "n": 40},
        },
        "base": {"loss": {"value": 3.0, "low": 2.9, "high": 3.1, "n": 40}},
        "difference": {"loss": {"value": value - 3.0, "low": value - 3.2, "high": value - 2.8, "n": 40}},
        "groups": {"turn": [{"name": "1", "rows": 20, "metrics": {"loss": {"value": 1.0}}}]},
        "samples": [
            {"why": "worst", "prompt": "say <script>alert(1)</script>", "reference": "no", "answer": "a/b & c",
             "base_answer": "?", "loss": 4.0}
        ],
        "settings": {"level": 0.95, "generation": {"max_new_tokens": 64}}, "time": 1_795_211_000.0,
    }  # fmt: skip
    return {**made, **changes}


EXPORT = {
    "folder": "step-20/gguf", "step": 20, "kind": "gguf", "output": "q4_k_m", "files": {"demo-q4_k_m.gguf": 4_096}, "bytes": 4_096,
    "proof": {"ok": False, "checks": [{"name": "kl", "ok": False, "value": 0.25, "limit": 0.1, "what": "mean KL to the run"}]},
    "settings": {}, "made": 1_795_212_000.0,
}  # fmt: skip
