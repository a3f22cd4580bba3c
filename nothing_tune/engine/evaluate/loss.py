"""-log p of every supervised token, rows batched by tokens, the longest first; a batch that does not fit is halved."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from nothing_tune.engine.evaluate.rows import Part
from nothing_tune.engine.failures import out_of_memory
from nothing_tune.engine.prepare.tokens import IGNORED
from nothing_tune.errors import OutOfMemory
from nothing_tune.plan.model import Plan

TOKENS = {"cuda": 16_384, "cpu": 4_096}
"""Tokens of a batch, padding included."""
LOGITS_BYTES = {"cuda": 2 << 30, "cpu": 512 << 20}
"""Bytes of a batch's logits, in float32, at most."""
CHUNK = 1024
"""Tokens whose log-probabilities are made together."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def autocast(plan: Plan, device: Any) -> contextlib.AbstractContextManager[Any]:
    """The precision that the Trainer evaluates in."""
    kind = torch.bfloat16 if plan.training.get("bf16") else torch.float16 if plan.training.get("fp16") else None
    if kind is None or (kind is torch.float16 and device.type == "cpu"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=kind)


def measure(
    model: Any, parts: Sequence[Part], plan: Plan, done: Callable[[int], None] = lambda _: None
) -> list[Numbers]:
    """For each part -log p (nats) of its tokens from the second on, where they are supervised; 0 where not.

    Args:
        model: In evaluation mode.
        parts: Rows or parts of rows; none has to be padded.
        done: Told how many parts are done.

    Returns:
        Arrays of `len(ids)` numbers, the first always 0.

    Raises:
        OutOfMemory: One row alone does not fit.
    """
    out: list[Numbers] = [np.zeros(len(part.ids)) for part in parts]
    waiting = sorted(range(len(parts)), key=lambda i: -len(parts[i].ids))
    device = model.device
    room = TOKENS.get(device.type, TOKENS["cpu"])
    vocabulary = int(model.config.get_text_config().vocab_size)
    room = min(room, max(LOGITS_BYTES.get(device.type, LOGITS_BYTES["cpu"]) // (4 * vocabulary), 1))
    finished = 0
    while waiting:
        count = max(room // max(len(parts[waiting[0]].ids), 1), 1)
        batch = waiting[:count]
        try:
            found = _batch(model, [parts[i] for i in batch], plan)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory(
                    f"out of memory with one row of {len(parts[batch[0]].ids):,} tokens",
                    hint="measure on shorter rows, or on a device with more memory",
                ) from error
            if device.type == "cuda":
                torch.cuda.empty_cache()
            room = max(len(parts[waiting[0]].ids) * (len(batch) // 2), 1)
            continue
        for index, values in zip(batch, found, strict=True):
            out[index][: len(values)] = values
        waiting = waiting[count:]
        finished += len(batch)
        done(finished)
    return out


def _batch(model: Any, parts: Sequence[Part], plan: Plan) -> list[Numbers]:
    wide = max(len(p.ids) for p in parts)
    ids = torch.zeros((len(parts), wide), dtype=torch.long)
    labels = torch.full((len(parts), wide), IGNORED, dtype=torch.long)
    mask = torch.zeros((len(parts), wide), dtype=torch.long)
    for row, part in enumerate(parts):
        size = len(part.ids)
        ids[row, :size], labels[row, :size], mask[row, :size] = torch.tensor(part.ids), torch.tensor(part.labels), 1
    wanted = labels[:, 1:] != IGNORED  # position i of the logits tells token i + 1
    out = torch.zeros((len(parts), wide), dtype=torch.float64)
    if not wanted.any():
        return [out[row, : len(p.ids)].numpy() for row, p in enumerate(parts)]
    columns = wanted.any(dim=0).nonzero().squeeze(1)
    device = model.device
    settings: dict[str, Any] = {"logits_to_keep": columns.to(device)} if _keeps(model) else {}
    with torch.inference_mode(), autocast(plan, device):
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **settings).logits
    if not settings:  # prompt tuning puts tokens of its own before them
        logits = logits[:, -wide:][:, columns.to(device)]
    chosen = wanted[:, columns].to(device)
    targets = labels[:, 1:][:, columns].to(device)[chosen]
    flat = logits[chosen]
    values = torch.cat(
        [
            torch.nn.functional.cross_entropy(flat[i : i + CHUNK].float(), targets[i : i + CHUNK], reduction="none")
            for i in range(0, len(targets), CHUNK)
        ]
    )
    out[:, 1:][wanted] = values.double().cpu()
    return [out[row, : len(p.ids)].numpy() for row, p in enumerate(parts)]


def _keeps(model: Any) -> bool:
    """Whether the model makes the logits of chosen places only (one list of places for the whole batch)."""
    config = getattr(model, "active_peft_config", None)
    if config is not None and getattr(config, "is_prompt_learning", False):
        return False
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
