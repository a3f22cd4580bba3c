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
from nothing_tune.plan.memory import Change

__all__ = ["RULES", "Advice", "Facts", "advise", "compatible", "name_of", "settled"]

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
    What the recipe accepts is among them, see `settled`; it takes no key away from other advice. Where the plan does not fit, what
    would make it fit comes before all but errors.
    """
    found = [advice for rule in RULES for advice in rule(facts)]
    found.sort(key=lambda a: SEVERITIES.index(a.severity))
    reasons = accepted(facts.plan.values)
    taken: dict[str, str] = {}
    offered: dict[str, set[str]] = {}
    for key, value in (_split(word) for change in facts.changes for word in change.words):
        offered.setdefault(key, set()).add(value)
    out = []
    for one in found:
        words = dict(_split(word) for word in one.changes)
        if one.rule not in reasons or one.severity == "error":
            if any(taken.get(key, value) != value for key, value in words.items()):
                continue
            if (
                facts.fits is False
                and one.severity != "error"
                and any(v not in offered.get(k, {v}) for k, v in words.items())
            ):
                continue
            taken |= words
        out.append(one)
    return out


def compatible(changes: Iterable[Change], told: Iterable[Advice]) -> tuple[Change, ...]:
    """The changes for the memory's sake that set no key otherwise than advice does: they come up again once it was followed."""
    words = dict(_split(word) for one in told for word in one.changes)
    return tuple(
        change for change in changes if all(words.get(key, value) == value for key, value in map(_split, change.words))
    )


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
