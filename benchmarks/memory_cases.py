"""What bench_memory.py compares: shapes of published models, plans, and the settings of a published measurement."""

from __future__ import annotations

from typing import Any

from nothing_tune.plan.model import Plan


def decoder(
    kind: str, hidden: int, layers: int, heads: int, keys: int, inner: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    """A config.json with what decides the shape."""
    return {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "intermediate_size": inner, "vocab_size": vocabulary, "tie_word_embeddings": True,
        "max_position_embeddings": 8192, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **more,
    }  # fmt: skip


UNTIED = {"tie_word_embeddings": False}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama-3.2-1B", decoder("llama", 2048, 16, 32, 8, 8192, 128256, head_dim=64)),
    "qwen2": ("Qwen2.5-0.5B", decoder("qwen2", 896, 24, 14, 2, 4864, 151936)),
    "qwen3": ("Qwen3-1.7B", decoder("qwen3", 2048, 28, 16, 8, 6144, 151936, head_dim=128)),
    "mistral": ("Mistral-7B", decoder("mistral", 4096, 32, 32, 8, 14336, 32000, **UNTIED)),
    "gemma2": ("gemma-2-2b", decoder("gemma2", 2304, 26, 8, 4, 9216, 256000, head_dim=256)),
    "phi3": ("Phi-3-mini", decoder("phi3", 3072, 32, 32, 32, 8192, 32064, **UNTIED)),
    "olmo2": ("OLMo-2-1B", decoder("olmo2", 2048, 16, 16, 16, 8192, 100352, **UNTIED)),
    "stablelm": ("stablelm-2-1.6b", decoder("stablelm", 2048, 24, 32, 32, 5632, 100352, **UNTIED)),
    "starcoder2": ("starcoder2-3b", decoder("starcoder2", 3072, 30, 24, 2, 12288, 49152)),
}
"""Shapes as the models' own config.json has them, written down from memory; what is not named here is the library's default."""
KEPT_OUT = ("olmo2", "stablelm", "starcoder2")
"""Families chosen by name, without a look at how well the arithmetic does on them."""
METHODS = ("lora", "qlora", "dora", "full")
BATCHES = ((1, 2048), (8, 512))

T4 = {"name": "t4", "kind": "cuda", "compute_capability": "7.5", "bf16": False, "memory_gb": 16}
L4 = {"name": "l4", "kind": "cuda", "compute_capability": "8.9", "bf16": True, "memory_gb": 24}
CPU = {"name": "cpu", "kind": "cpu", "bf16": True}
T4_MODELS = {
    "TinyLlama-1.1B": decoder("llama", 2048, 22, 32, 4, 5632, 32000, **UNTIED),
    "SmolLM2-1.7B": decoder("llama", 2048, 24, 32, 32, 8192, 49152),
    "SmolLM2-360M": decoder("llama", 960, 32, 15, 5, 2560, 49152),
    "SmolLM2-135M": decoder("llama", 576, 30, 9, 3, 1536, 49152),
    "Qwen2.5-1.5B": decoder("qwen2", 1536, 28, 12, 2, 8960, 151936),
    "Qwen2.5-0.5B": decoder("qwen2", 896, 24, 14, 2, 4864, 151936),
    "gemma-2-2b": decoder("gemma2", 2304, 26, 8, 4, 9216, 256000, head_dim=256),
    "llama-160m": decoder("llama", 768, 12, 12, 12, 3072, 32000, **UNTIED),
}
SMALL = decoder("llama", 512, 4, 8, 2, 1536, 32768)
"""Small enough to train for real on a CPU."""


def plan(
    method: str, gpu: dict[str, Any], *, dtype: str = "bfloat16", attention: str = "sdpa", peft: dict[str, Any] | None = None,
    quantization: dict[str, Any] | None = None, trainable: str | None = None, **training: Any,
) -> Plan:  # fmt: skip
    """A plan of `method` (lora, qlora, dora or full); `peft`, `quantization` and `training` change single settings."""
    adapter = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
        "target_modules": "all-linear", "bias": "none", "use_dora": method == "dora",
    }  # fmt: skip
    packed = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    settings = {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_length": 8192, "packing": False,
        "activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}, "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused", "learning_rate": 1e-4, "bf16": True, "fp16": False,
    }  # fmt: skip
    return Plan(
        name="memory", gpu=gpu, values={}, model={"name_or_path": "memory", "init": {"dtype": dtype, "attn_implementation": attention}},
        data={}, quantization={**packed, **(quantization or {})} if method == "qlora" else None,
        peft=None if method == "full" else {**adapter, **(peft or {})}, training={**settings, **training},
        tracking={}, monitor={}, checkpoint={}, trainable_dtype=trainable,
    )  # fmt: skip


def published(row: dict[str, str]) -> tuple[Plan, dict[str, Any], int, int]:
    """`(plan, config.json, rows, length)` of a row of vram_t4.csv: fp16, no dropout, no double quantisation, float32 adapters."""
    said = dict(part.split("=", 1) for part in row["notes"].split(";") if "=" in part)
    method = row["method"]
    half = {"bf16": False, "fp16": True}
    made = plan(
        method, T4, dtype="float32" if method == "full" else "float16", attention=said["attn"], trainable="float32",
        peft={"r": int(row["rank"] or 1), "lora_dropout": 0.0, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        quantization={"bnb_4bit_use_double_quant": False}, optim="adamw_torch",
        activation_checkpointing=row["grad_ckpt"] == "yes", **half,
    )  # fmt: skip
    return made, T4_MODELS[row["model"]], int(row["micro_batch"]), int(row["seq_len"])
