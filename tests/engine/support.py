"""What the engine's tests share: a tiny model and tokenizer, and readers of a run's events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.engine import worker

WORDS = ["alpha", "beta", "gamma", "delta", "nothing", "everything", "please", "again"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(
    tokens: tuple[str, ...] = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"), **special: str
) -> Any:
    """A byte-level BPE tokenizer of about 400 tokens, `tokens` among them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, **(special or {"pad_token": "<|pad|>", "eos_token": "<|im_end|>"})
    )


def tiny_model(
    folder: Path, *, tied: bool = True, template: str | None = CHATML, tokenizer: Any = None, hidden: int = 64
) -> Path:
    """Saves a two-layer Llama with random weights and its tokenizer to `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tok = tokenizer or tiny_tokenizer()
    tok.chat_template = template
    tok.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tok), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied, pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
}
MakeRun = Callable[..., Run]


def put(plan: dict[str, Any], changes: dict[str, Any]) -> None:
    """Sets dotted keys of a plan in place."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = plan
        for part in parents:
            node = node[part]
        node[last] = value


def losses(run: Run) -> dict[int, float]:
    """Training loss of each step, the last attempt's where a step was trained twice."""
    return {e["step"]: e["metrics"]["loss"] for e, _ in run.events() if e["type"] == "log" and "loss" in e["metrics"]}


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    """All events of one type."""
    return [e for e, _ in run.events() if e["type"] == kind]


def train(run: Run) -> dict[str, Any]:
    """Trains in this process and returns the result."""
    worker.main(run.path)
    result = run.result()
    assert result is not None
    return result
