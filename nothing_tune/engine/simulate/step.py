"""One training step as SFTTrainer runs it: loss, backward, clipping, optimizer, with everything there that a later step has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

from nothing_tune.engine.simulate.kernels import Card, Cuda
from nothing_tune.engine.simulate.ledger import Ledger


@dataclass(frozen=True)
class Batch:
    """A micro batch.

    Attributes:
        rows: Rows of it.
        length: Tokens a row, padding included.
        supervised: Share of the tokens that the loss is on, 0 to 1.
        padded: Whether some rows are shorter than `length`, so that attention needs a mask.
        flat: Whether the rows are one after the other in a single one, without padding.
        loss: `installed`: the trainer's own. `full`: on all logits at once, with keys repeated for each head, as libraries did
            before TRL 1.7. `plain`: the same in a loop of one's own, without mixed precision, with the logits kept until the
            end and a quantised model made ready by PEFT's `prepare_model_for_kbit_training`; published measurements are such.
    """

    rows: int
    length: int
    supervised: float = 1.0
    padded: bool = False
    flat: bool = False
    loss: str = "installed"

    def shape(self) -> tuple[int, int]:
        """Rows and columns of the tensors."""
        return (1, self.rows * self.length) if self.flat else (self.rows, self.length)

    def scored(self) -> int:
        """Positions whose next token the loss is on."""
        rows, columns = self.shape()
        return max(1, round(rows * (columns - 1) * self.supervised))

    def inputs(self) -> dict[str, Any]:
        """What TRL's collator gives the model."""
        tokens = torch.zeros(self.shape(), dtype=torch.int64)
        out: dict[str, Any] = {"input_ids": tokens, "labels": torch.zeros_like(tokens)}
        if not self.flat:
            return out | {"attention_mask": torch.ones_like(tokens)}
        bounds = torch.zeros(self.rows + 1, dtype=torch.int32)
        return out | {
            "position_ids": torch.zeros_like(tokens),
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": self.length,
            "max_length_k": self.length,
            "seq_idx": torch.zeros(self.shape(), dtype=torch.int32),
        }


def run(
    model: Any, optimizer: Any, args: Any, batch: Batch, ledger: Ledger, amp: torch.dtype | None, processes: int = 1
) -> None:
    """Runs the step with which memory is fullest: states are there, and with accumulation gradients of earlier micro batches too.

    Args:
        model: As `model.wrapped` gives it; its weights are told to `ledger` already.
        args: SFTConfig.
        amp: Type of mixed precision; None for none.
        processes: How many train together.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    marks = [p.register_post_accumulate_grad_hook(lambda p: ledger.own(p.grad, "gradients")) for p in trained]
    with ledger:
        _first_states(optimizer, trained, ledger)
        if args.gradient_accumulation_steps > 1:
            with ledger.counting("gradients"):
                for weight in trained:
                    weight.grad = torch.zeros_like(weight)
        if processes > 1:
            with ledger.counting("gradients"):
                buckets = [torch.empty_like(p) for p in trained]  # DDP's buckets hold each gradient once more
        ledger.restart()
        forward = _mixed(model.forward, None if batch.loss == "plain" else amp)
        loss, kept = _loss(model, forward, batch)
        ledger.summing = True
        loss.backward()
        ledger.summing = False
        del loss
        if args.max_grad_norm:
            nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
        with ledger.counting("optimizer"):
            optimizer.step()
        optimizer.zero_grad()
        kept, buckets = None, []
    del kept, buckets
    for mark in marks:
        mark.remove()


def _first_states(optimizer: Any, trained: list[Any], ledger: Ledger) -> None:
    """Makes the optimizer's states, as its first step does."""
    with ledger.counting("gradients"):
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
    with ledger.counting("optimizer"):
        optimizer.step()
    optimizer.zero_grad()


def _mixed(forward: Callable[..., Any], amp: torch.dtype | None) -> Callable[..., Any]:
    """`forward` as accelerate wraps it: autocast inside, float32 outside."""
    if amp is None:
        return forward
    from accelerate.utils.operations import convert_outputs_to_fp32

    return convert_outputs_to_fp32(torch.autocast("cpu", dtype=amp)(forward))


def _loss(model: Any, forward: Callable[..., Any], batch: Batch) -> tuple[torch.Tensor, Any]:
    """The loss that the trainer goes back from, and what of the model's outputs is kept meanwhile."""
    inputs = batch.inputs()
    count = torch.tensor(batch.rows * batch.length)
    if batch.loss != "installed":
        out = forward(**inputs, use_cache=False, num_items_in_batch=count)
        return out.loss, out if batch.loss == "plain" else None
    text = model.config.get_text_config()
    aux = float(getattr(text, "router_aux_loss_coef", 0.0) or 0.0) if hasattr(text, "output_router_logits") else 0.0
    if aux:
        inputs["output_router_logits"] = True
    out = forward(**inputs, use_cache=False, fused_lm_head=True)
    loss = (-out.log_probs).sum() / count.clamp(min=1)
    return (loss + aux * out.aux_loss if aux else loss), None


def fuse_head(model: Any) -> None:
    """TRL's language head that never holds all logits, as SFTTrainer puts it on."""
    from trl.trainer.utils import add_fused_lm_head

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))


@contextlib.contextmanager
def as_on(card: Card, model: Any, batch: Batch, flash: bool, ledger: Ledger) -> Iterator[None]:
    """The ways of a GPU while a step runs: masks where they are needed, and on CUDA its kernels and TRL's Triton head.

    Args:
        flash: Whether the FlashAttention package runs, for which no mask is made.
    """
    import transformers.masking_utils as masks
    from trl.kernels import chunked_logprob as head
    from trl.trainer import utils as trl

    several = batch.flat and batch.rows > 1

    def nothing(*_: Any, **__: Any) -> None:
        return None

    changes: list[tuple[Any, str, Any]] = [
        (masks, "is_tracing", lambda *_: False),
        (masks, "fast_all", lambda *_: not batch.padded),
        (masks, "find_packed_sequence_indices", lambda position_ids: position_ids if several else None),
    ]
    if batch.loss != "installed":
        from transformers.integrations import sdpa_attention

        changes.append((sdpa_attention, "use_gqa_in_sdpa", lambda *_: False))  # keys were repeated then
    if card.cuda:
        counted = _counted_head(trl._ChunkedLogProbFunction, batch.scored(), ledger)
        changes += [(head, name, nothing) for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")]
        changes.append((trl, "_ChunkedLogProbFunction", counted))
    with contextlib.ExitStack() as stack:
        for place, name, other in changes:
            stack.enter_context(mock.patch.object(place, name, other))
        if flash:
            makers = masks.ALL_MASK_ATTENTION_FUNCTIONS
            before = makers["sdpa"]
            makers["sdpa"] = nothing
            stack.callback(makers.__setitem__, "sdpa", before)
        if card.cuda:
            mode = Cuda(card, batch.length)
            for module in model.modules():
                if (checkpoint := getattr(module, "_gradient_checkpointing_func", None)) is not None:
                    module._gradient_checkpointing_func = _within(checkpoint, mode)
            stack.enter_context(mode)
        yield


def _within(checkpoint: Callable[..., Any], mode: Cuda) -> Callable[..., Any]:
    """`checkpoint` that also runs a part again in CUDA's ways."""
    return lambda part, *args, **kwargs: checkpoint(mode.around(part), *args, **kwargs)


def _counted_head(real: Any, scored: int, ledger: Ledger) -> Any:
    """TRL's fused head, given only the positions that the loss is on, as on a GPU; what it makes counts as logits."""

    class Head(real):
        """The same, counted."""

        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            """As TRL's."""
            with ledger.counting("logits"):
                return real.forward(ctx, *args)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            """As TRL's."""
            with ledger.counting("logits"):
                return real.backward(ctx, *grads)

    class Scored:
        """Stands in for the function: `apply` picks the positions first."""

        @staticmethod
        def apply(hidden: Any, weight: Any, bias: Any, labels: Any, *more: Any) -> Any:
            """Scores `scored` rows of `hidden`, and hands back as many values as there are positions."""
            total = hidden.shape[0]
            if scored < total:
                places = torch.zeros(scored, dtype=torch.int64)
                hidden, labels = hidden.index_select(0, places), labels[:scored]
            out = Head.apply(hidden, weight, bias, labels, *more)
            if scored == total:
                return out
            return tuple(None if x is None else nn.functional.pad(x, (0, total - scored)) for x in out)

    return Scored
