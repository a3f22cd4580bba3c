"""Advice on the adapter: its scale, rank, targets and dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from nothing_tune.plan.advice.facts import (
    MARCO,
    NOTHING_GPT,
    OURS,
    STUDIO,
    Advice,
    Facts,
    Rule,
    count,
    number,
)
from nothing_tune.plan.architecture import adapts_experts

LOW_SCALE, HIGH_SCALE, FAR = 1.0, 2.0, 2.0
"""Nothing-GPT has 1 and calls 2 the next thing to try; PEFT Studio and the function-calling guide have 2."""
LOW_RS, HIGH_RS = 0.5, 8.0
"""Of lora_alpha / sqrt(r): what plain LoRA's 1 to 2 is at ranks up to 16, with room on both sides."""
HIGHEST_PLAIN = 16
ATTENTION = frozenset(
    [
        "q_proj",
        "k_proj",
        "v_proj",
        "query",
        "key",
        "value",
        "q",
        "k",
        "v",
        "wq",
        "wk",
        "wv",
        "query_key_value",
        "c_attn",
    ]
)
"""Names of the layers of attention that PEFT's own defaults adapt."""
LITTLE_DATA = 1000
ALPHA, RANK, TARGETS, DROPOUT = "peft.lora_alpha", "peft.r", "peft.target_modules", "peft.lora_dropout"


def alpha_to_rank(facts: Facts) -> Iterator[Advice]:
    """What the adapter adds is scaled by lora_alpha / r, or with rsLoRA by lora_alpha / sqrt(r)."""
    if facts.method != "LORA":
        return
    rank, alpha, rs = facts.get(RANK, 8), facts.get(ALPHA, 8), bool(facts.get("peft.use_rslora"))
    scale = alpha / math.sqrt(rank) if rs else alpha / rank
    low, high = (LOW_RS, HIGH_RS) if rs else (LOW_SCALE, HIGH_SCALE)
    if low * 0.999 <= scale <= high * 1.001:
        return
    far = scale * FAR < low * 0.999 or scale > high * FAR * 1.001
    usual = round(HIGH_SCALE * math.sqrt(rank)) if rs else round((HIGH_SCALE if scale > high else LOW_SCALE) * rank)
    unit = f"{number(alpha)} / sqrt({rank})" if rs else f"{number(alpha)} / {rank}"
    effect = (
        "it drowns the base in the adapter, and the loss may jump" if scale > high else "the adapter is hardly heard"
    )
    yield Advice(
        "alpha-to-rank",
        "warning" if far else "advice",
        f"the adapter's scale is {number(round(scale, 2))}",
        f"lora_alpha {unit}; {number(low)} to {number(high)} is usual{' with rsLoRA' if rs else ''}: {effect}",
        (f"{ALPHA}={max(1, usual)}",),
        ALPHA,
        f"{OURS}; rsLoRA, arXiv 2312.03732" if rs else f"{NOTHING_GPT} has 1, {STUDIO} 2",
    )


def rank_without_rslora(facts: Facts) -> Iterator[Advice]:
    """Dividing by r makes the parts of a high rank smaller than they need be; dividing by its square root keeps them."""
    rank, alpha = facts.get(RANK, 8), facts.get(ALPHA, 8)
    if facts.method != "LORA" or rank <= HIGHEST_PLAIN or facts.get("peft.use_rslora"):
        return
    if isinstance(facts.get("peft.init_lora_weights"), str):
        return  # starts of their own, whose papers have ranks up to 128 without it
    same = max(1, round(min(max(alpha / rank, LOW_SCALE), HIGH_SCALE) * math.sqrt(rank)))
    yield Advice(
        "rank-without-rslora",
        "advice",
        f"rank {rank} without rsLoRA",
        f"above {HIGHEST_PLAIN} the scale lora_alpha / r, here {number(round(alpha / rank, 2))}, holds high ranks back; lora_alpha "
        f"{same} / sqrt({rank}) is {number(round(same / math.sqrt(rank), 2))}",
        ("peft.use_rslora=true", f"{ALPHA}={same}"),
        "peft.use_rslora",
        f"{STUDIO}, rsLoRA; arXiv 2312.03732",
    )


def few_targets(facts: Facts) -> Iterator[Advice]:
    """An adapter on every linear layer learns more than one on a few of attention."""
    if facts.method != "LORA" or facts.get("peft.layers_to_transform") or facts.get("peft.layers_pattern"):
        return
    targets = facts.get(TARGETS)
    names = [str(t).split(".")[-1] for t in targets] if isinstance(targets, list) else None
    if (targets is not None and names is None) or len(set(names or ())) > 2 or not set(names or ()) <= ATTENTION:
        return
    if facts.get("peft.target_parameters"):
        return
    told = " and ".join(names) if names else "what PEFT takes where nothing is written, one or two layers of attention"
    of = ""
    if facts.shape is not None and names:
        of = f" of {len({linear.name for linear in facts.shape.linears})} kinds of linear layers"
    yield Advice(
        "few-targets",
        "advice",
        f"only {len(names)}{of} get an adapter" if names else "only few layers get an adapter",
        f"{told}; fewer trained parameters, and it can express less than one on all linear layers",
        _all_linear(facts),
        TARGETS,
        f"{NOTHING_GPT}, target_modules; QLoRA, arXiv 2305.14314, section 4",
    )


def targets_not_there(facts: Facts) -> Iterator[Advice]:
    """PEFT raises where no target is found, and says nothing where some are not."""
    targets = facts.get(TARGETS)
    if facts.shape is None or not isinstance(targets, list) or not targets:
        return
    there = {linear.name for linear in facts.shape.linears if not linear.parameter}
    names = {str(t): str(t).split(".")[-1] for t in targets}
    missing = [
        name for name, leaf in names.items() if leaf not in there and not leaf.startswith(("embed", "wte", "lm_head"))
    ]
    if not missing:
        return
    none, lora = len(missing) == len(names), facts.method == "LORA"
    listed = ", ".join(missing)
    found = f"a {facts.shape.family} model has {', '.join(sorted(there))}"
    changes = _all_linear(facts) if lora and not facts.get("peft.layers_to_transform") else ()
    what = (
        f"the model has none of the targets {listed}"
        if none
        else f"the model has no {listed}, and PEFT passes over {'it' if len(missing) == 1 else 'them'} in silence"
    )
    yield Advice(
        "targets-not-there",
        "error" if none else "warning",
        what if changes else f"{what}: name its layers in {TARGETS}",
        found,
        changes,
        TARGETS,
        f"{OURS}; PEFT, tuners_utils.py",
    )


def no_dropout(facts: Facts) -> Iterator[Advice]:
    """With few rows, dropout keeps an adapter from learning them by heart."""
    rows, epochs = facts.rows.train, facts.epochs
    if facts.method != "LORA" or facts.get(DROPOUT, 0.0) > 0 or rows is None or rows >= LITTLE_DATA:
        return
    if epochs is None or epochs <= 1 or isinstance(facts.get("peft.init_lora_weights"), str):
        return
    if _experts(facts):
        return  # PEFT refuses dropout there
    yield Advice(
        "no-dropout",
        "advice",
        "no dropout with little data",
        f"{count(rows)} rows are learned {count(epochs)} times; dropout keeps the adapter from learning them by heart",
        (f"{DROPOUT}=0.05",),
        DROPOUT,
        f"{NOTHING_GPT}, lora_dropout; {STUDIO}; {MARCO} on overfitting",
    )


def dropout_refused(facts: Facts) -> Iterator[Advice]:
    """PEFT adapts experts and routers as parameters, without a layer that could drop inputs."""
    dropout = facts.get(DROPOUT, 0.0)
    if facts.shape is None or not dropout > 0 or not _experts(facts):
        return
    yield Advice(
        "dropout-refused",
        "error",
        "PEFT puts no adapter with dropout on experts",
        f"lora_dropout is {number(dropout)}, and the adapter is put on the experts of {facts.shape.family}, which are "
        "parameters and no layers: PEFT raises an error",
        (f"{DROPOUT}=0",),
        DROPOUT,
        "PEFT 0.21, ParamWrapper in tuners/lora/layer.py",
    )


def _experts(facts: Facts, **peft: Any) -> bool:
    """Whether the adapter, with other settings, is put on experts."""
    return facts.shape is not None and adapts_experts(facts.shape, {**(facts.plan.peft or {}), **peft})


def _all_linear(facts: Facts) -> tuple[str, ...]:
    """Words that put the adapter on all linear layers; without dropout where experts are among them."""
    drops = facts.get(DROPOUT, 0.0) > 0 and _experts(facts, target_modules="all-linear")
    return (f"{TARGETS}=all-linear", *((f"{DROPOUT}=0",) if drops else ()))


RULES: tuple[Rule, ...] = (
    alpha_to_rank,
    rank_without_rslora,
    few_targets,
    targets_not_there,
    no_dropout,
    dropout_refused,
)
"""Rules of this file, in the order in which they are shown."""
