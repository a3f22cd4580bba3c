"""Gathers what the gate's rules look at: the report, the tokenizer, and what the model's config says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.engine import build
from nothing_tune.engine.prepare.gate import Facts
from nothing_tune.engine.prepare.tokens import Encoder
from nothing_tune.plan.model import Plan

SPARE_PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|PAD_TOKEN|>", "<|vision_pad|>", "<unk>")
"""Tokens that model families set aside for padding, or that can pad."""


def gather(report: dict[str, Any], plan: Plan, encoder: Encoder, kind: str, passed_over: Mapping[str, int]) -> Facts:
    """The facts of prepared rows. What the model's config does not say, or where it cannot be read, is None."""
    tokenizer, seen = encoder.tokenizer, report["seen"]
    eos = str(tokenizer.eos_token or "")
    pad = str(plan.training.get("pad_token") or tokenizer.pad_token or eos)
    vocabulary = tokenizer.get_vocab()
    config = _config(plan)
    return Facts(
        report=report,
        kind=kind,
        assistant_only=encoder.assistant_only,
        end=eos,
        ends_learned=seen["ends_learned"],
        pad=pad,
        eos=eos,
        spare_pad=next((t for t in SPARE_PADS if t in vocabulary and t != eos), ""),
        largest_id=seen["largest_id"],
        vocabulary=getattr(config, "vocab_size", None),
        context=getattr(config, "max_position_embeddings", None),
        added=encoder.template.added,
        unknown=seen["unknown"],
        doubled_start=seen["doubled_start"],
        typed=seen["places"]["typed"],
        typed_rows=seen["typed"],
        merged=seen["places"]["merged"],
        merged_rows=seen["merged"],
        unsupervised=seen["places"]["unsupervised"],
        cut_answers=seen["places"]["cut_answers"],
        passed_over=passed_over,
    )


def _config(plan: Plan) -> Any:
    """The text part of the model's config."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            build.model_name(plan),
            revision=str(plan.model.get("revision") or "main"),
            trust_remote_code=bool(plan.model.get("trust_remote_code")),
        )
    except Exception:  # the model is loaded later, and what is wrong with it told then
        return None
    return config.get_text_config()
