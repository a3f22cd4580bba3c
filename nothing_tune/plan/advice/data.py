"""Advice on lengths and packing, from the lengths of the rows as they were tokenised."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nothing_tune.plan.advice.facts import CALLING, NOTHING_GPT, OURS, STUDIO, Advice, Facts, Rule, count, many, percent
from nothing_tune.plan.advice.memory import fills, room

WASTE = 0.3
"""Share of padding in what a GPU works on from which it is worth a word."""
STEPS_LEFT, LEAST_STEPS = 200, 50
"""Steps that packing must leave: the warmup of Nothing-GPT alone has 200."""
NOTHING_GAINED = 0.95
CUT, MANY_CUT = 0.01, 0.1
"""Share of the rows that are longer than what is kept."""
LENGTH, PACKING, SAMPLING = "training.max_length", "training.packing", "training.train_sampling_strategy"


def packing_worth_it(facts: Facts) -> Iterator[Advice]:
    """Padding costs as much as text. Packing joins rows; where that leaves too few steps, batches of like lengths help."""
    if facts.plan.training.get("packing") or facts.plan.training.get("padding_free") or facts.maths is None:
        return
    told = ((facts.rows.report or {}).get("train") or {}).get("padding") or {}
    plain, grouped, packed = (told.get(key) for key in ("plain", "grouped", "packed"))
    limit, tokens = facts.get(LENGTH), facts.rows.tokens
    if not isinstance(plain, float) or plain < WASTE or not tokens:
        return
    why = f"{percent(plain)} of what the batches hold is padding"
    if isinstance(packed, float) and limit and packed < plain / 2:
        sequences = math.ceil(tokens / (limit * (1 - packed)))
        total = math.ceil(math.ceil(sequences / facts.global_batch) * facts.maths.epochs)
        if total >= STEPS_LEFT and not facts.limited and _bears(facts, limit):
            told_steps = (
                f"packed it is {percent(packed)}, in {count(total)} steps instead of {count(facts.maths.total)}"
            )
            yield Advice(
                "packing-worth-it",
                "advice",
                "much of each batch is padding: packing fills it with rows",
                f"{why}; {told_steps}",
                (f"{PACKING}=true",),
                PACKING,
                f"{CALLING}, sequence packing",
            )
            return
    if isinstance(grouped, float) and grouped < plain / 2 and facts.get(SAMPLING) != "group_by_length":
        yield Advice(
            "packing-worth-it",
            "advice",
            "much of each batch is padding: batches of like lengths have less",
            f"{why}; with rows grouped by length it is {percent(grouped)}, and packing would leave few steps or need more memory",
            (f"{SAMPLING}=group_by_length",),
            SAMPLING,
            f"{OURS}; {STUDIO}, length considerations",
        )


def packing_with_few_rows(facts: Facts) -> Iterator[Advice]:
    """Packed rows are fewer sequences, so fewer steps."""
    maths = facts.maths
    if maths is None or not maths.exact or not facts.plan.training.get("packing") or facts.limited:
        return
    plain = math.ceil(math.ceil(maths.rows / facts.global_batch) * maths.epochs)
    if maths.total >= LEAST_STEPS or plain < LEAST_STEPS:
        return
    yield Advice(
        "packing-with-few-rows",
        "warning",
        f"packing leaves {many(maths.total, 'step')}",
        f"{count(maths.rows)} rows become {count(maths.sequences)} sequences; without packing the run has {count(plain)} steps",
        (f"{PACKING}=false",),
        PACKING,
        f"{OURS}; {CALLING}, sequence packing",
    )


def packing_gains_nothing(facts: Facts) -> Iterator[Advice]:
    """Rows as long as a sequence leave no room for others."""
    maths = facts.maths
    if maths is None or not maths.exact or not facts.plan.training.get("packing") or maths.total < LEAST_STEPS:
        return
    if facts.plan.data.get("truncation") == "split" or maths.sequences < NOTHING_GAINED * maths.rows:
        return
    yield Advice(
        "packing-gains-nothing",
        "advice",
        "packing joins hardly any rows",
        f"{count(maths.rows)} rows become {count(maths.sequences)} sequences: nearly every row fills one by itself",
        (f"{PACKING}=false",),
        PACKING,
        f"{CALLING}, sequence packing",
    )


def rows_cut(facts: Facts) -> Iterator[Advice]:
    """What is cut is not learned; what `tune data inspect` says of cut answers is not said again."""
    limit, lengths = facts.get(LENGTH), facts.rows.lengths
    how = facts.plan.data.get("truncation")
    if not limit or not lengths or how == "split" or any(f.get("key") == LENGTH for f in facts.rows.findings):
        return
    rows = sum(n for _, _, n in lengths)
    longer = sum(n for low, _, n in lengths if low > limit)
    if not rows or longer < CUT * rows:
        return
    done = "left out" if how == "drop" else "cut"
    what = f"{count(longer)} of {count(rows)} rows are longer than {count(limit)} tokens and are {done}"
    why = f"{percent(longer / rows)} of the rows"
    severity = "warning" if longer >= MANY_CUT * rows else "advice"
    context = facts.shape.context if facts.shape else None
    enough = _enough(lengths, rows)
    if (context is None or enough <= context) and _bears(facts, enough):
        told = f"{why}; {count(enough)} tokens hold 99 % of them"
        yield Advice("rows-cut", severity, what, told, (f"{LENGTH}={enough}",), LENGTH, f"{NOTHING_GPT}, max_length")
    else:
        told = f"{why}; {count(enough)} tokens would hold 99 % of them, which is more than the model or the GPU bears"
        action = f"{what}: shorten them, or split them beforehand"
        yield Advice("rows-cut", severity, action, told, (), LENGTH, f"{STUDIO}, length considerations")


def length_above_context(facts: Facts) -> Iterator[Advice]:
    """Beyond the positions that it was trained on a model reads noise."""
    context = facts.shape.context if facts.shape else None
    limit, longest = facts.get(LENGTH), facts.rows.longest
    if facts.plan.training.get("packing") or context is None or longest is None or longest <= context:
        return
    told = f"max_length is {count(limit)}" if limit else "nothing is cut"
    yield Advice(
        "length-above-context",
        "warning",
        f"the longest row has {count(longest)} tokens, and the model was made to read {count(context)}",
        f"{told}; beyond its positions the model reads noise",
        (f"{LENGTH}={context}",),
        LENGTH,
        f"{STUDIO}, length considerations",
    )


def _enough(lengths: tuple[tuple[int, int, int], ...], rows: int) -> int:
    """Tokens, a multiple of 256, that hold 99 % of the rows."""
    below = 0
    for _, high, n in lengths:
        below += n
        if below >= (1 - CUT / 2) * rows:
            return 256 * math.ceil((high - 1) / 256)
    return 256 * math.ceil(lengths[-1][1] / 256)


def _bears(facts: Facts, length: int) -> bool:
    """Whether batches of `length` tokens fit, as far as is known: what grows with tokens, grown in proportion."""
    have = room(facts)
    if have is None or facts.memory is None:
        return True
    return fills(facts.memory, length / facts.memory.length) <= have


RULES: tuple[Rule, ...] = (
    packing_worth_it,
    packing_with_few_rows,
    packing_gains_nothing,
    rows_cut,
    length_above_context,
)
"""Rules of this file, in the order in which they are shown."""
