"""Advice: what may be unwise about a run before it starts, each with its reason, its numbers and the change that settles it.

Each rule is one small function from `Facts` to `Advice`, silent where what it needs is unknown. Rules are grouped by subject, one
file each; their names, and what each says in a sentence, are in `nothing_tune/recipe/advice.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nothing_tune.plan.advice import (
    adapter,
    batch,
    data,
    duration,
    evaluation,
    learning_rate,
    loading,
    memory,
    precision,
    storage,
)
from nothing_tune.plan.advice.facts import SEVERITIES, Advice, Facts, Rule, name_of

__all__ = ["RULES", "Advice", "Facts", "advise", "name_of", "settled"]

RULES: tuple[Rule, ...] = (
    *duration.RULES,
    *batch.RULES,
    *precision.RULES,
    *evaluation.RULES,
    *learning_rate.RULES,
    *adapter.RULES,
    *data.RULES,
    *memory.RULES,
    *loading.RULES,
    *storage.RULES,
)
"""Every rule, in the order in which advice of one severity is shown."""


def advise(facts: Facts) -> list[Advice]:
    """What may be unwise, gravest first.

    No two pieces of advice set one key to different values: the graver one stays, and the other comes up when it was followed.
    What the recipe accepts is among them, see `settled`; it takes no key away from other advice.
    """
    found = [advice for rule in RULES for advice in rule(facts)]
    found.sort(key=lambda a: SEVERITIES.index(a.severity))
    reasons = accepted(facts.plan.values)
    taken: dict[str, str] = {}
    out = []
    for one in found:
        words = dict(_split(word) for word in one.changes)
        if one.rule not in reasons or one.severity == "error":
            if any(taken.get(key, value) != value for key, value in words.items()):
                continue
            taken |= words
        out.append(one)
    return out


def accepted(values: Mapping[str, object]) -> dict[str, str]:
    """Rule -> reason, of what the recipe with these `values` accepts."""
    section = values.get("advice")
    reasons = section.get("accept") if isinstance(section, Mapping) else None
    return {str(rule): str(why) for rule, why in reasons.items() if why} if isinstance(reasons, Mapping) else {}


def settled(told: Iterable[Advice], values: Mapping[str, object]) -> tuple[list[Advice], list[tuple[Advice, str]]]:
    """`(advice, [(advice that the recipe accepts, its reason)])`. What cannot work is not accepted."""
    reasons, open_, done = accepted(values), [], []
    for one in told:
        if one.rule in reasons and one.severity != "error":
            done.append((one, reasons[one.rule]))
        else:
            open_.append(one)
    return open_, done


def _split(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value
