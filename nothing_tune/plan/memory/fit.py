"""Whether a step fits a GPU, how long its rows may be, and the nearest changes that would make it fit or use it better. Pure.

The rows of an optimizer step never change: a smaller micro batch means more accumulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nothing_tune.plan import batch
from nothing_tune.plan.architecture import Shape, Unlisted
from nothing_tune.plan.memory.arithmetic import estimate
from nothing_tune.plan.memory.model import Estimate
from nothing_tune.plan.memory.setting import checkpoints
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import Rows

USABLE = 0.975
"""Share of the data sheet's bytes that a program sees: 14,912 MiB of a T4's 16 GB (fitcheck 0.3.0 README); others have more."""
LONGEST = 131_072
"""Tokens at which the search for the longest row ends where the model has no limit of its own."""
STEP = 64
"""Tokens between lengths that are tried."""
MOST = 5
"""Changes that are offered."""
FITS, TOO_BIG, UNKNOWN = "fits", "does not fit", "cannot tell"


@dataclass(frozen=True)
class Change:
    """Settings that would need less memory, or use the GPU better.

    Attributes:
        words: What to write behind the command, such as `training.activation_checkpointing=true`.
        estimate: The peak with them.
        why: What it costs or gains, one clause.
    """

    words: tuple[str, ...]
    estimate: Estimate
    why: str


def usable(gpu: Mapping[str, Any]) -> int | None:
    """Bytes of `gpu` (facts of recipes/gpus) that training can have; None where it has no memory of its own, or nobody says."""
    memory = gpu.get("memory_gb")
    if gpu.get("kind", "cuda") != "cuda" or not memory:
        return None
    return int(float(memory) * 1e9 * USABLE)


def verdict(estimate: Estimate, gpu: Mapping[str, Any]) -> str:
    """`fits`, `does not fit` by the peak, or `cannot tell` where the GPU's memory is unknown."""
    room = usable(gpu)
    if room is None:
        return UNKNOWN
    return FITS if estimate.peak <= room else TOO_BIG


def longest(shape: Shape, plan: Plan, rows: int) -> int | None:
    """Tokens of the longest rows at which a micro batch of `rows` still fits; 0 where none does, None where nobody can tell."""
    room = usable(plan.gpu)
    if room is None:
        return None
    low, high = 0, (shape.context or LONGEST) // STEP + 1
    try:
        while high - low > 1:
            middle = (low + high) // 2
            fits = estimate(shape, plan, rows, middle * STEP).peak <= room
            low, high = (middle, high) if fits else (low, middle)
    except Unlisted:
        return None
    return min(low * STEP, shape.context or low * STEP)


def changes(shape: Shape, plan: Plan, rows_known: Rows) -> list[Change]:
    """The nearest changes that fit where the plan does not, those that use the GPU better where it does; nearest first.

    Args:
        rows_known: What is known about the rows; the longest of them decides.

    Returns:
        At most `MOST`, none where nothing helps or nobody can tell.
    """
    room = usable(plan.gpu)
    if room is None:
        return []
    try:
        now = _estimate(shape, plan, rows_known)
        return list(
            _smaller(shape, plan, rows_known, room) if now.peak > room else _better(shape, plan, rows_known, room)
        )
    except Unlisted:
        return []


def length_of(plan: Plan, rows: Rows) -> int:
    """Tokens of the longest row that a step may see."""
    limit = plan.training.get("max_length") or (plan.values.get("training") or {}).get("max_length")
    if plan.training.get("packing"):
        return int(limit or rows.longest or 1024)
    known = [int(n) for n in (rows.longest, limit) if n]
    return min(known) if known else 1024


def _estimate(shape: Shape, plan: Plan, rows: Rows) -> Estimate:
    micro = int(plan.training.get(batch.MICRO) or batch.DEFAULTS[batch.MICRO])
    return estimate(shape, plan, micro, length_of(plan, rows))


Applied = tuple[Plan, tuple[str, ...], str]
Lever = Callable[[Shape, Plan, Rows], "Applied | None"]


def _with(plan: Plan, **training: Any) -> Plan:
    return replace(plan, training={**plan.training, **training})


def _words(**training: Any) -> tuple[str, ...]:
    return tuple(f"training.{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in training.items())


def _batch(plan: Plan) -> tuple[int, int]:
    """Micro batch and accumulation of a process."""
    return tuple(int(plan.training.get(k) or batch.DEFAULTS[k]) for k in (batch.MICRO, batch.ACCUMULATION))  # type: ignore[return-value]


def _sizes(plan: Plan, micro: int, accumulation: int) -> tuple[str, ...]:
    """Words for micro batch and accumulation of a process; a recipe writes the accumulation of one process for all of them."""
    return _words(**{batch.MICRO: micro, batch.ACCUMULATION: accumulation * plan.world_size})


def _sdpa(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    init = plan.model.get("init") or {}
    if init.get("attn_implementation") != "eager" or any(b.softcap for b, _ in shape.blocks):
        return None
    other = replace(plan, model={**plan.model, "init": {**init, "attn_implementation": "sdpa"}})
    return (
        other,
        ("model.attn_implementation=sdpa",),
        "never writes out the scores of all pairs of tokens, and is faster",
    )


def _flash(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    init = plan.model.get("init") or {}
    if not plan.gpu.get("flash_attention") or str(init.get("attn_implementation")).startswith("flash"):
        return None
    other = replace(plan, model={**plan.model, "init": {**init, "attn_implementation": "flash_attention_2"}})
    return (
        other,
        ("model.attn_implementation=flash_attention_2",),
        "needs no mask; the flash-attn package must be installed",
    )


def _checkpointing(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    if checkpoints(plan.training):
        return None
    other = _with(plan, activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": False})
    return other, _words(activation_checkpointing=True), "computes activations again, about a quarter more time a step"


def _base_half(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    init = plan.model.get("init") or {}
    half = "bfloat16" if plan.training.get("bf16") else "float16" if plan.training.get("fp16") else ""
    if not half or plan.peft is None or init.get("dtype") != "float32":
        return None
    other = replace(plan, model={**plan.model, "init": {**init, "dtype": half}})
    return (
        other,
        (f"model.dtype={half}",),
        "keeps the frozen weights in 16 bits, which loses nothing for a 16-bit model",
    )


def _optimizer(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    name = str(plan.training.get("optim") or "adamw_torch_fused")
    if "8bit" in name or name in ("sgd", "adafactor"):
        return None
    return _with(plan, optim="paged_adamw_8bit"), _words(optim="paged_adamw_8bit"), "keeps Adam's two means in 8 bits"


def _quantised(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    if plan.quantization or not plan.peft or str(plan.peft.get("peft_type") or "LORA").upper() not in ("LORA", "IA3"):
        return None
    start = str(plan.peft.get("init_lora_weights") or "").lower()
    if start.startswith(("pissa", "olora", "loftq")):
        return None
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    compute = "bfloat16" if plan.training.get("bf16") else "float16" if plan.training.get("fp16") else "float32"
    words = tuple(f"quantization.{k}={str(v).lower()}" for k, v in nf4.items())
    other = replace(plan, quantization={**nf4, "bnb_4bit_compute_dtype": compute})
    return other, words, "stores the frozen weights in 4 bits (QLoRA); steps are somewhat slower"


def _adapter(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    if plan.peft:
        return None
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    words = (*(f"peft.{k}={v}" for k, v in lora.items()), "training.learning_rate=2e-4")
    init = plan.model.get("init") or {}
    half = "bfloat16" if plan.training.get("bf16") else "float16" if plan.training.get("fp16") else init.get("dtype")
    other = replace(plan, peft=lora, model={**plan.model, "init": {**init, "dtype": half}})
    return other, words, "trains an adapter (LoRA) instead of every weight"


def _unpacked(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    limit = plan.training.get("max_length")
    if not plan.training.get("packing") or not rows.longest or not limit:
        return None
    known = max((high - 1 for _, high, _ in rows.lengths), default=0)
    if not known or known >= int(limit):
        return None
    return (
        _with(plan, packing=False, max_length=known),
        _words(packing=False, max_length=known),
        "rows are shorter than what is packed",
    )


def _cut(shape: Shape, plan: Plan, rows: Rows) -> Applied | None:
    total = sum(n for _, _, n in rows.lengths)
    below, at = 0, None
    for _, high, count in rows.lengths:
        below += count
        if below >= 0.99 * total:
            at = high - 1
            break
    if plan.training.get("packing") or not at or at >= length_of(plan, rows):
        return None
    return _with(plan, max_length=at), _words(max_length=at), "cuts the longest hundredth of the rows"


LEVERS: tuple[tuple[int, Lever], ...] = (
    (1, _sdpa),
    (1, _base_half),
    (2, _checkpointing),
    (2, _unpacked),
    (3, _flash),
    (4, _optimizer),
    (5, _quantised),
    (6, _cut),
    (9, _adapter),
)
"""What can be changed, with what it costs in speed and quality, from least to most; the micro batch costs `MICRO_COST`."""
MICRO_COST = 1


def _smaller(shape: Shape, plan: Plan, rows: Rows, room: int) -> Iterator[Change]:
    """Combinations of levers that fit, fewest and cheapest first; none that holds one already offered."""
    levers = [(cost, i, lever) for i, (cost, lever) in enumerate(LEVERS) if lever(shape, plan, rows)]
    sets: list[tuple[int, int, tuple[int, ...], bool]] = []
    for size in range(min(4, len(levers)) + 1):
        for chosen in itertools.combinations(levers, size):
            for micro in (False, True):
                cost = sum(c for c, _, _ in chosen) + MICRO_COST * micro
                if size + micro:
                    sets.append((size + micro, cost, tuple(i for _, i, _ in chosen), micro))
    found: list[frozenset[int]] = []
    for _, _, chosen_levers, micro in sorted(sets):
        key = frozenset({*chosen_levers, *([-1] if micro else [])})
        if any(have <= key for have in found):
            continue
        change = _apply(shape, plan, rows, room, chosen_levers, micro)
        if change:
            found.append(key)
            yield change
        if len(found) == MOST or (found and len(key) > 2 and len(found) > 2):
            return


def _apply(shape: Shape, plan: Plan, rows: Rows, room: int, chosen: tuple[int, ...], micro: bool) -> Change | None:
    """The change that pulls these levers, and with `micro` the largest smaller micro batch that then fits; None if it does not."""
    words: tuple[str, ...] = ()
    whys = []
    for number in chosen:
        applied = LEVERS[number][1](shape, plan, rows)
        if applied is None:
            return None
        plan, more, why = applied
        words += more
        whys.append(why)
    if not micro:
        try:
            got = _estimate(shape, plan, rows)
        except Unlisted:
            return None
        return Change(words, got, "; ".join(whys)) if got.peak <= room else None
    before, accumulated = _batch(plan)
    try:
        while (smaller := batch.smaller({**plan.training, "activation_checkpointing": True}, "training")) is not None:
            plan = _with(plan, **smaller["training"])
            got = _estimate(shape, plan, rows)
            if got.peak <= room:
                now, each = plan.training[batch.MICRO], plan.training[batch.ACCUMULATION]
                why = f"micro batch {before} -> {now}, accumulation {accumulated} -> {each}: the same rows a step"
                return Change(words + _sizes(plan, now, each), got, "; ".join([*whys, why]))
    except Unlisted:
        return None
    return None


def _better(shape: Shape, plan: Plan, rows: Rows, room: int) -> Iterator[Change]:
    """What would be faster or better and still fits with the whole band."""
    if checkpoints(plan.training):
        other = _with(plan, activation_checkpointing=False)
        got = _estimate(shape, other, rows)
        if got.high <= room:
            yield Change(
                _words(activation_checkpointing=False), got, "keeps activations: about a fifth less time a step"
            )
    if plan.quantization and plan.peft:
        got = _estimate(shape, replace(plan, quantization=None), rows)
        if got.high <= room:
            yield Change(
                ("quantization=null",), got, "keeps the frozen weights in 16 bits: faster, and nothing is rounded"
            )
    largest = None
    micro, accumulation = _batch(plan)
    for more in range(2, accumulation + 1):
        if accumulation % more == 0:
            sizes = {batch.MICRO: micro * more, batch.ACCUMULATION: accumulation // more}
            got = _estimate(shape, _with(plan, **sizes), rows)
            if got.high > room:
                break
            words = _sizes(plan, micro * more, accumulation // more)
            largest = Change(words, got, "fewer, fuller passes: the same rows a step")
    if largest and largest.estimate.peak > 0:
        yield largest
