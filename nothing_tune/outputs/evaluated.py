"""Evaluations of several runs beside each other: only those of the same name and the same rows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nothing_tune.outputs import evaluation as evaluations
from nothing_tune.outputs.lines import Line, best_of, interval

Record = Mapping[str, Any]
OF_TOKENS = ("loss", "perplexity", "length", "length_ratio", "repetition", "distinct_2")
"""Metrics that count tokens: they are compared where the tokenizer is the same."""
OF_ROWS = ("loss", "perplexity", "bits_per_byte")
"""Metrics of rows alone: how answers were drawn plays no part."""


@dataclass(frozen=True)
class Compared:
    """One evaluation by runs beside each other.

    Attributes:
        name: Its name.
        rows: How many rows it is of; None for tasks, and where the runs have other rows.
        lines: One line a metric: values are `{value, low, high, n}`, None for a run without it.
        settings_differ: Answers were drawn with other settings, so that metrics of answers are not of the same thing.
        tokenizers_differ: The same files in other tokens, so that what counts tokens is not of the same thing.
        rows_differ: Each value is of other rows, or one run alone has any, so that nothing of it is called the best.
    """

    name: str
    rows: int | None
    lines: tuple[Line, ...]
    settings_differ: bool = False
    tokenizers_differ: bool = False
    rows_differ: bool = False


def evaluated(records: Sequence[Record]) -> tuple[tuple[Compared, ...], list[str]]:
    """The evaluations by name and rows, and what may not be compared.

    Those of the same name and rows stand together; those of that name which no other run has on the same rows stand in one table
    after them, with nothing called the best.
    """
    tokenizers = [(one.get("fingerprints") or {}).get("tokenizer") for one in records]
    texts = len({t for t in tokenizers if t}) > 1
    found: dict[str, dict[tuple[Any, ...], Found]] = {}
    for place, one in enumerate(records):
        for raw in one.get("evaluations") or []:
            with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
                made = evaluations.Evaluation.from_json(raw)
                runs = found.setdefault(_stem(made), {}).setdefault(_identity(made, texts), [None] * len(records))
                runs[place] = _rather(runs[place], made, one)
    compared = []
    notes = []
    for name, sets in found.items():
        together = {key: runs for key, runs in sets.items() if _count(runs) > 1}
        compared += [_compared(name, runs, texts and key[0] == "text") for key, runs in together.items()]
        alone = _alone(records, [runs for key, runs in sets.items() if key not in together], [*together.values()])
        if not _count(alone):
            continue
        compared.append(_compared(name, alone, False, True))
        if together:
            notes.append(f"of {name}, some runs have evaluations of other rows: they stand apart, and are not compared")
        elif _count(alone) > 1:
            notes.append(
                f"the evaluations called {name} are of different rows: their values are shown, but cannot be compared"
            )
        elif len(records) > 1:
            notes.append(f"the evaluation {name} was made of one run only: tune eval makes it of the others")
    return tuple(compared), notes


Found = list[evaluations.Evaluation | None]
"""One evaluation a run; None for a run without it."""


def _count(runs: Found) -> int:
    return sum(1 for e in runs if e is not None)


def _alone(records: Sequence[Record], sets: Sequence[Found], together: Sequence[Found]) -> Found:
    """Of the runs that have an evaluation only on rows of their own that one."""
    out: Found = [None] * len(records)
    for runs in sets:
        for place, one in enumerate(runs):
            if one is not None and not any(other[place] for other in together):
                out[place] = _rather(out[place], one, records[place])
    return out


def _stem(one: evaluations.Evaluation) -> str:
    """An evaluation's name without the number that one of another step has."""
    return re.sub(r"-\d+$", "", one.name)


def _identity(one: evaluations.Evaluation, texts: bool) -> tuple[Any, ...]:
    """What makes two evaluations ones of the same rows and tasks; of rows without a digest, those of no other.

    The digest is one of the tokens of all rows, of which `--rows` draws always the same ones.
    With `texts`, where tokenizers differ, the names of the files and the number of their rows stand for it.
    """
    digest, tasks = one.data.get("digest"), repr(one.settings.get("tasks") or None)
    named = [str(source).rpartition("/")[2] for source in one.data.get("sources") or []]
    if texts and digest is not None and named:
        return ("text", one.data.get("kind"), tuple(named), one.rows.get("count"), tasks)
    if digest is None and one.data.get("kind") != "tasks":
        return (one.run, one.name)
    return (digest, tasks, one.rows.get("count"))


def _rather(one: evaluations.Evaluation | None, other: evaluations.Evaluation, run: Record) -> evaluations.Evaluation:
    """Of two evaluations by one run that of the best step, else the one that holds more, else the newer one."""
    if one is None:
        return other
    step = (run.get("best") or {}).get("step")
    return max((one, other), key=lambda e: (e.step == step, int(e.rows.get("count") or 0), len(e.metrics), e.time))


def _compared(name: str, runs: Found, texts: bool, apart: bool = False) -> Compared:
    there = [e for e in runs if e is not None]
    drawn = [
        {k: v for k, v in e.settings.items() if k in ("generation", "generate", "sampling", "max_new_tokens")}
        for e in there
    ]
    judges = [e.settings.get("judge") for e in there]
    names = dict.fromkeys(metric for e in there for metric in e.metrics)
    order = {metric: place for place, metric in enumerate(evaluations.METRICS)}
    lines = []
    for metric in sorted(names, key=lambda m: (order.get(m, len(order)), m)):
        values = tuple(e.metrics.get(metric) if e else None for e in runs)
        better = evaluations.fact(metric).better
        comparable = not apart and (metric in OF_ROWS or _alike(judges if metric.startswith("judge_") else drawn))
        comparable = comparable and not (texts and metric in OF_TOKENS)
        best = best_of([v.value if v else None for v in values], better == "lower") if better and comparable else ()
        best = best if _apart(values, best) else ()
        plain = tuple(v.to_json() if v else None for v in values)
        lines.append(
            Line(
                metric,
                evaluations.fact(metric).label,
                plain,
                "metric",
                tuple(interval(metric, v) for v in values),
                best,
            )
        )
    if apart:
        counts = tuple(e.rows.get("count") if e else None for e in runs)
        lines = [Line("rows", "rows", counts, "count"), *lines] if any(counts) else lines
        return Compared(name, None, tuple(lines), rows_differ=True)
    return Compared(name, there[0].rows.get("count"), tuple(lines), not _alike(drawn), texts)


def _apart(values: Sequence[evaluations.Metric | None], best: Sequence[int]) -> bool:
    """Whether no interval of another run overlaps one of the best; else the rows are too few to tell them apart."""
    spans = [None if v is None or v.low is None or v.high is None else (v.low, v.high) for v in values]
    pairs = [(spans[n], other) for n in best for place, other in enumerate(spans) if place not in best]
    return not any(one[0] < other[1] and other[0] < one[1] for one, other in pairs if one and other)


def _alike(settings: Sequence[Any]) -> bool:
    return all(one == settings[0] for one in settings)
