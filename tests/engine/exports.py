"""What the tests of exports share: small models of families, and runs that really trained them.

    base = model("qwen2", tmp / "base", hidden=256, shards=3)
    run = trained("dora", base, tmp / "runs")             # a run directory with committed checkpoints, state `done`
    run = trained("tokens", model("llama", ...), ...)      # added tokens; see METHODS

The weights are random, drawn so wide that a training of a few steps moves the answers. The tokenizers are byte-level BPE that was
really trained, with the family's way to split words, its special tokens, its template and its beginning of the sequence.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, write_json
from nothing_tune.plan.model import PLAN_VERSION
from tests.engine.families import own_template
from tests.engine.support import NF4, put, train

_SPLIT_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLIT_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Kind:
    """One family.

    Attributes:
        tokens: Special tokens, in the order of their ids.
        template: Name in `tests.engine.families` of the model whose own chat template it has.
        eos: Token that ends the sequence, in tokenizer and config.
        turn: Token that ends an assistant's turn.
        pad: Padding token, never one that ends anything.
        bos: Token that the tokenizer puts before every text; None for none.
        split: Regular expression that splits words; None for that of GPT-2.
        tied: Whether input embeddings and head are one.
    """

    tokens: tuple[str, ...]
    template: str
    eos: str
    turn: str
    pad: str
    bos: str | None
    split: str | None
    tied: bool


FAMILIES = {
    "llama": Kind(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"),
        "llama-3", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|begin_of_text|>", _SPLIT_LLAMA3, True,
    ),
    "qwen2": Kind(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "qwen2.5", "<|im_end|>", "<|im_end|>", "<|endoftext|>", None, _SPLIT_QWEN2, True,
    ),
    "qwen3": Kind(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"),
        "qwen3", "<|im_end|>", "<|im_end|>", "<|endoftext|>", None, _SPLIT_QWEN2, True,
    ),
    "mistral": Kind(
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
         "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        "mistral-instruct-v0.3", "</s>", "</s>", "<pad>", "<s>", _SPLIT_TEKKEN, False,
    ),
    "gemma": Kind(
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "gemma3", "<eos>", "<end_of_turn>", "<pad>", "<bos>", None, True,
    ),
}  # fmt: skip

LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"],
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-all": {"peft.target_modules": "all-linear"},
    "qlora": {"quantization": NF4, "peft.target_modules": "all-linear"},
    "dora": {"peft.use_dora": True, "peft.target_modules": "all-linear"},
    "rslora": {"peft.use_rslora": True},
    "pissa": {"peft.init_lora_weights": "pissa"},
    "olora": {"peft.init_lora_weights": "olora"},
    "patterns": {
        "peft.target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"], "peft.rank_pattern": {"q_proj": 4},
        "peft.alpha_pattern": {"v_proj": 64},
        "peft.layers_to_transform": [1],
    },
    "bias": {"peft.bias": "all"},  # of qwen2, which has some
    "embed": {"peft.target_modules": ["embed_tokens", "q_proj"]},
    "head": {"peft.modules_to_save": ["lm_head"]},
    "saved-embed": {"peft.modules_to_save": ["embed_tokens"]},
    "tokens": {"data.chat_template": "chatml"},
    "full": {"peft": None, "training.learning_rate": 2e-3},
}  # fmt: skip
"""Name -> what it changes in the plan. `tokens` adds ChatML's tokens where the model has none (llama, mistral, gemma)."""

_TEXT = (
    "the a of to in harbour lantern winter river answer question where when please bring seven little boats over water and "
    "then rest near old stone bridge before morning light falls città però naïve 日本 Ελλάδα 🙂 3.14 2026 don't we're"
)
_WORDS = _TEXT.split()


def tokenizer(family: str) -> Any:
    """A new tokenizer of the family, about 500 tokens, its own chat template set."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    kind = FAMILIES[family]
    core = Tokenizer(models.BPE())
    if family.startswith("qwen"):
        core.normalizer = normalizers.NFC()
    if kind.split:
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(kind.split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(kind.tokens), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    chance = random.Random(3)
    core.train_from_iterator([" ".join(chance.choices(_WORDS, k=40)) + ".\n" for _ in range(60)], trainer)
    if kind.bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A", pair=f"{kind.bos} $A {kind.bos} $B", special_tokens=[(kind.bos, core.token_to_id(kind.bos))]
        )  # fmt: skip
    extra = {"bos_token": kind.bos} if kind.bos else {}
    if "<unk>" in kind.tokens:
        extra["unk_token"] = "<unk>"
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=kind.eos, pad_token=kind.pad, clean_up_tokenization_spaces=False, **extra
    )
    tok.chat_template = own_template(kind.template)
    return tok


def model(
    family: str,
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    shards: int = 1,
    tied: bool | None = None,
    dtype: str = "float32",
    seed: int = 0,
    room: bool = True,
) -> Path:
    """Saves a small model of `family` with random weights and its tokenizer to `folder`, and returns the folder.

    Args:
        hidden: Width; a multiple of 256 for k-quants without fallbacks.
        layers: Number of layers.
        shards: About how many weight files there are.
        tied: Whether embeddings and head are one; None as the family has it.
        dtype: Type of the stored weights.
        seed: Of the weights.
        room: Whether the embeddings have rows that no token uses, as many models have; without, added tokens make them grow.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = FAMILIES[family]
    tok = tokenizer(family)
    tok.save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": -(-len(tok) // 64) * 64 if room else len(tok),
        "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": hidden // 4, "max_position_embeddings": 2048,
        "tie_word_embeddings": kind.tied if tied is None else tied, "initializer_range": 0.08, "pad_token_id": tok.pad_token_id,
        "eos_token_id": tok.eos_token_id, "bos_token_id": tok.bos_token_id,
    }  # fmt: skip
    if family == "gemma":
        settings |= {
            "query_pre_attn_scalar": hidden // 4,
            "sliding_window": 512,
            "layer_types": ["sliding_attention"] * layers,
        }
    if family.startswith("mistral"):
        settings["sliding_window"] = None
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gemma3_text" if family == "gemma" else family, **settings)
    ).to(getattr(torch, dtype))
    stops = list(dict.fromkeys([tok.eos_token_id, tok.convert_tokens_to_ids(kind.turn)]))
    made.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    size = sum(p.numel() * p.element_size() for p in made.parameters())
    made.save_pretrained(folder, max_shard_size=size + 1 if shards == 1 else max(1, size // shards))
    return folder


def rows(path: Path, number: int = 40) -> Path:
    """Writes `number` short conversations, and returns the file."""
    chance = random.Random(1)
    lines = []
    for _ in range(number):
        asked = " ".join(chance.choices(_WORDS, k=4))
        said = " ".join(chance.choices(_WORDS[:12], k=5))
        turns = [{"role": "user", "content": f"{asked}?"}, {"role": "assistant", "content": f"{said}."}]
        lines.append(json.dumps({"messages": turns}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def trained(method: str, base: Path, tmp: Path, name: str = "", **changes: Any) -> Run:
    """A run below `tmp` that trained `base` by `method` (one of METHODS) for six steps, done, in about two seconds.

    Checkpoints 2, 4 and 6 are kept, with an evaluation at each. `changes` are dotted keys of the plan
    (`**{"checkpoint.best": True}`).
    """
    tmp.mkdir(parents=True, exist_ok=True)
    data = tmp / "rows.jsonl"
    if not data.is_file():
        rows(data)
    plan: dict[str, Any] = {
        "version": PLAN_VERSION,
        "name": "small",
        "gpu": {"name": "cpu"},
        "values": {"name": "small"},
        "model": {
            "name_or_path": str(base), "revision": None, "trust_remote_code": False,
            "init": {"dtype": "float32", "attn_implementation": "sdpa"},
        },
        "data": {"train": str(data), "eval": 0.2, "format": "auto", "seed": 42, "max_samples": None, "chat_template": None},
        "quantization": None,
        "peft": dict(LORA),
        "training": {
            "use_cpu": True, "bf16": False, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 6,
            "learning_rate": 2e-2, "lr_scheduler_type": "constant", "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2,
            "save_strategy": "steps", "save_steps": 2, "report_to": "none", "save_total_limit": None, "load_best_model_at_end": False,
            "logging_nan_inf_filter": False, "disable_tqdm": True, "activation_checkpointing": False, "max_length": 256, "seed": 42,
            "assistant_only_loss": True,
        },
        "tracking": {"tracker": "none"},
        "monitor": {},
        "checkpoint": {"best": False, "metric": "eval_loss", "greater_is_better": False, "keep": 9},
        "trainable_dtype": None,
        "world_size": 1,
        "why": {},
    }  # fmt: skip
    put(plan, {**METHODS[method], **changes})
    run = Run(tmp / (name or f"{base.name}-{method}"))
    run.path.mkdir()
    write_json(run.path / "plan.json", plan)
    result = train(run)
    assert result["state"] == "done", result
    return run
