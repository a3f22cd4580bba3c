"""Make the model `nano` from nothing: write its text, train its tokenizer and weights, save it.

    python scripts/pretrain_nano.py --out recipes/models/nano

Needs torch, transformers and tokenizers, a CPU with two cores and about 2 GB of memory; no network.
The default is 1,500 steps of 4,096 tokens, 6.1 M tokens in all: an estimated 10 minutes on two idle cores with
bfloat16 instructions (12,000 tokens a second), 25 minutes measured on two busy ones. The text
comes from the grammars in `nano_text.py`. The same seed, steps, threads and machine give the same model,
up to the rounding of sums.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
from nano_text import Document, documents

PAD, BOS, START, END = "<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 1536  # entries, a multiple of 256
CONTEXT = 1024  # tokens, the longest sequence in training
TOKENS_PER_STEP = 4096
HELD_OUT_SEED = 10_000_019  # text the training never sees is drawn with this seed

# ChatML. The generation block marks what the assistant says, its end-of-turn token included.
CHAT_TEMPLATE = """\
{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{%- if system or tools -%}
{{- '<|im_start|>system\\n' + system -}}
{%- if tools -%}
{{- ('\\n\\n' if system else '') + 'Tools:' -}}
{%- for tool in tools -%}
{{- '\\n' + (tool | tojson) -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function if call.function is defined else call -%}
{{- ('\\n' if message.content or not loop.first else '') + '<tool_call>\\n{"name": ' + (function.name | tojson) -}}
{{- ', "arguments": ' -}}
{{- function.arguments if function.arguments is string else (function.arguments | tojson) -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message.role != 'system' or not loop.first -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def render(document: Document, tokenizer: PreTrainedTokenizerFast) -> str:
    """The text of a document as the model reads it; prose ends with the end-of-turn token too."""
    if isinstance(document, str):
        return document + END
    return tokenizer.apply_chat_template(document["messages"], tools=document.get("tools"), tokenize=False)


def make_tokenizer(seed: int, count: int = 30_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `count` documents. Every digit is a token of its own."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, START, END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=CHAT_TEMPLATE)
    text = documents(seed)
    bpe.train_from_iterator((render(next(text), tokenizer) for _ in range(count)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 3.0 M parameters with random weights in float32; all its widths are multiples of 256."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def sequences(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Rows of token ids, without end and without padding. Send the wanted length in tokens for each row.

    A row starts at the start of a document, holds whole documents with the bos token between them,
    and cuts off the last one. Half of the rows start with the bos token, as in a plain-text prompt.
    """
    text, r, ready = documents(seed), random.Random(seed), []
    length = yield torch.empty(0)
    while True:
        row = [tokenizer.bos_token_id] if r.random() < 0.5 else []
        while len(row) < length:
            if not ready:
                batch = [render(next(text), tokenizer) for _ in range(2000)]
                ready = tokenizer(batch, add_special_tokens=False)["input_ids"]
            row += [*ready.pop(), tokenizer.bos_token_id]
        length = yield torch.tensor(row[:length])


def batch_of(rows: Iterator[torch.Tensor], length: int) -> torch.Tensor:
    """The next `TOKENS_PER_STEP` tokens as rows of `length` tokens."""
    return torch.stack([rows.send(length) for _ in range(TOKENS_PER_STEP // length)])


def loss_of(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross entropy of a batch, in nats a token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())


def evaluate(model: LlamaForCausalLM, batches: list[torch.Tensor]) -> float:
    """Mean loss over the held-out batches, in nats a token."""
    model.eval()
    with torch.inference_mode():
        loss = sum(loss_of(model, batch).item() for batch in batches) / len(batches)
    model.train()
    return loss


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> float:
    """Train in place for `steps` steps and return the held-out loss in nats a token.

    Muon moves the matrices of the layers, AdamW the embedding and the norms; the rate rises over the
    first 3 % of the steps and falls to zero along a cosine. Rows have 256 tokens, in the last tenth 1,024.
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.006, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.004, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    warm = max(1, round(0.03 * steps))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: min((s + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * s / steps)))
        for o in optimizers
    ]
    unseen = sequences(tokenizer, HELD_OUT_SEED)
    next(unseen)
    held_out = [batch_of(unseen, 256) for _ in range(16)]
    rows = sequences(tokenizer, seed)
    next(rows)
    start = time.monotonic()
    for step in range(1, steps + 1):
        loss = loss_of(model, batch_of(rows, 256 if step <= 0.9 * steps else CONTEXT))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 100 == 0 or step == steps:
            seconds = time.monotonic() - start
            print(
                f"step {step}/{steps}  loss {loss.item():.3f}  held out {evaluate(model, held_out):.3f} nats/token"
                f"  {seconds:.0f} s  {step * TOKENS_PER_STEP / seconds:.0f} tokens/s",
                flush=True,
            )
    return evaluate(model, held_out)


def reply(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """The greedy reply to one user message, at most 60 tokens."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=60, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    """Parse the command line, make the model, save it in bfloat16, and show some replies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, made if missing")
    parser.add_argument("--steps", type=int, default=1500, help=f"steps of {TOKENS_PER_STEP} tokens (1500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the text and the first weights (0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    start = time.monotonic()
    tokenizer = make_tokenizer(args.seed)
    model = make_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    loss = train(model, tokenizer, args.steps, args.seed)

    model.eval().to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"saved to {args.out} after {time.monotonic() - start:.0f} s, held-out loss {loss:.3f} nats/token")
    for prompt in (
        "What is a kettle for?",
        "What are you doing with the ladder?",
        "Where is the glimmock?",
        "Tell me about the cat.",
        "What is three plus four?",
        "Dov'è il gatto?",
    ):
        print(json.dumps({"user": prompt, "nano": reply(model, tokenizer, prompt)}, ensure_ascii=False))


if __name__ == "__main__":
    main()
