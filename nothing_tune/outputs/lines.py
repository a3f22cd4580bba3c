"""Runs beside each other, line by line: one value a run, which one is best, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nothing_tune.outputs import evaluation as evaluations
from nothing_tune.outputs import html

UNKNOWN = "\0unknown"
"""Stands for a setting of a run whose recipe is not known."""


@dataclass(frozen=True)
class Line:
    """One thing said of every run.

    Attributes:
        key: Its name for programs.
        label: Its name for people.
        values: One value a run; None where it is not known.
        form: How it is written: `text`, `count`, `loss`, `seconds`, `rate`, `bytes`, `usd`, `value` (of a recipe), `metric`.
        details: One text a run that stands after its value; empty for none.
        best: Places of the runs with the best value; empty where none is better, or they may not be compared.
    """

    key: str
    label: str
    values: tuple[Any, ...]
    form: str = "text"
    details: tuple[str, ...] = ()
    best: tuple[int, ...] = ()


def best_of(values: Sequence[float | None], lower: bool) -> tuple[int, ...]:
    """Places of the best value; none where fewer than two are known, or all are the same."""
    known = [v for v in values if v is not None]
    if len(known) < 2 or len(set(known)) == 1:
        return ()
    top = min(known) if lower else max(known)
    return tuple(i for i, v in enumerate(values) if v == top)


def interval(name: str, one: evaluations.Metric | None) -> str:
    """`0.41 to 0.52`; empty without an interval."""
    if one is None or one.low is None or one.high is None:
        return ""
    return f"{evaluations.shown(name, one.low)} to {evaluations.shown(name, one.high)}"


def written(line: Line, place: int) -> str:
    """A run's value of a line as people read it, by its form; `-` where it is not known."""
    value = line.values[place]
    if value == UNKNOWN or (value is None and line.form != "value"):
        return "-"
    if line.form == "value":
        from nothing_tune.recipe.compose import scalar  # it needs PyYAML, which `tune runs` does without

        return scalar(value)
    if line.form == "metric":
        return evaluations.shown(line.key, value["value"]) if isinstance(value, dict) else f"{value:.3g}"
    forms = {"loss": html.loss, "seconds": html.duration, "bytes": html.size, "count": html.count}
    if line.form in forms:
        return forms[line.form](value)
    return f"${value:,.2f}" if line.form == "usd" else str(value)


def proved(proof: Mapping[str, Any] | None) -> str:
    """What a proof says, in two words."""
    if not proof or proof.get("ok") is None:
        return "not proved"
    return "proved" if proof["ok"] else "proof failed"
