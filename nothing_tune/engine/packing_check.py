"""Whether rows that share a sequence stay apart in a model: packed or padding-free rows must not see each other.

TRL marks where each row begins by its positions (0, 1, ..., 0, 1, ...). Most architectures of transformers turn these into
block-diagonal attention; some take no positions (OPT, MPT, Bloom, ALiBi variants of Falcon) or keep a state from token to
token (Mamba, RWKV), and then every row is read with the rows before it, without a word.
"""

from __future__ import annotations

from typing import Any

import torch

from nothing_tune.errors import Problem, UsageError

LENGTHS = (11, 13)
"""Tokens of the two rows that are tried."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Share of the influence that a row has on its own continuation up to which its influence on the next row is rounding."""
TOLERANCE_HALF = 2e-2


def refuse_leaks(model: Any) -> None:
    """Raises `UsageError` when rows that share a sequence would see each other in `model`, or it takes no such rows.

    Four forward passes of 24 tokens.

    Args:
        model: A causal language model, wrapped by PEFT or not, on any device and quantised or not; left as it was.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    try:
        if leak(model) <= tolerance(model):
            return
        what = f"rows that share a sequence would see each other in a model of the kind {kind}"
    except (TypeError, ValueError) as error:
        what = f"a model of the kind {kind} takes no packed rows: {next(iter(str(error).splitlines()), '')}"
    raise UsageError(
        Problem(what, key="training.packing", hint="set training.packing=false and training.padding_free=false")
    )


def tolerance(model: Any) -> float:
    """The largest `leak` that counts as rounding in the model's dtype."""
    dtype = model.get_input_embeddings().weight.dtype
    return TOLERANCE.get(dtype, TOLERANCE_HALF)


@torch.no_grad()
def leak(model: Any) -> float:
    """How much the first of two packed rows changes the second, as a share of what it would as one text with it: 0 is clean, 1 is
    no separation at all.

    The second row is read behind two different first rows of one length, packed as TRL's collator packs them: where rows
    are kept apart, its logits are the same bits. Raises what the model raises when it refuses such a batch.
    """
    embeddings = model.get_input_embeddings().weight
    draw = torch.Generator().manual_seed(0)
    size = int(model.get_input_embeddings().num_embeddings)
    first, other = (torch.randint(size, (LENGTHS[0],), generator=draw) for _ in range(2))
    second = torch.randint(size, (LENGTHS[1],), generator=draw)
    was_training = model.training
    model.eval()
    try:
        packed = [_logits(model, [row, second], embeddings.device) for row in (first, other)]
        joined = [_logits(model, [torch.cat([row, second])], embeddings.device) for row in (first, other)]
    finally:
        model.train(was_training)
    together = float((joined[0] - joined[1]).abs().max())
    apart = float((packed[0] - packed[1]).abs().max())
    return apart / together if together > 0 else 0.0


def _logits(model: Any, rows: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Logits (tokens of the second row, vocabulary) in float32 of `rows` as TRL's collator joins them."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": row.tolist()} for row in rows])
    inputs = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if name != "labels"
    }
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits[0, -LENGTHS[1] :].float()
