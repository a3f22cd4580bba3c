"""The page of `tune eval`: figures beside the base's, groups, a few answers to read, and where all of it lies."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.console import Ink, plural
from nothing_tune.outputs import evaluation as record
from nothing_tune.outputs.evaluation import METRICS, Evaluation, Group, Metric

FEW = 10
"""Rows below which intervals say little."""
SHOWN = ("worst", "random", "best")
"""Samples of the page, one each."""
LABEL = 11
MOST_LINES = 4
"""Lines of one answer."""
GROUPED = {"loss": "loss", "exact_match": "exact", "call_match": "calls"}
"""Metrics that the tables of groups have, and their short names."""


def lines(found: Evaluation, path: str, columns: int, paint: Ink) -> list[str]:
    """The whole page.

    Args:
        path: The file it was written to.
        columns: As many as a line may take.
    """
    sections = [
        _head(found, paint),
        _figures(found, paint),
        _judge(found, columns, paint),
        *(_group(kind, some, found, paint) for kind, some in found.groups.items()),
        _samples(found, columns, paint),
        [f"{paint.dim('written to')} {console.near(path)}"],
    ]
    out: list[str] = []
    for section in sections:
        if section:
            out += [*([""] if out else []), *section]
    return out


def _head(found: Evaluation, paint: Ink) -> list[str]:
    rows = found.rows
    count = int(rows.get("count") or 0)
    parts = [f"step {found.step}"]
    if count:
        whole = int(rows.get("of") or count)
        parts.append(plural(count, "row") if count == whole else f"{count:,} of {whole:,} rows")
        parts.append(plural(int(rows.get("supervised_tokens") or 0), "learned token"))
        if rows.get("answers"):
            parts.append(plural(int(rows["answers"]), "answer"))
    out = [f"{paint.bold(found.name)}  {paint.dim(f'{found.run}, ' + ', '.join(parts))}"]
    sources = [console.near(str(s)) for s in found.data.get("sources") or []]
    held = "held out by the run" if found.data.get("kind") == "held-out" else ""
    facts = {
        "rows" if count else "tasks": ", ".join(sources) + (f", {held}" if held else ""),
        "base": console.near(found.base_name),
    }
    width = max(map(len, facts))
    out += [f"  {paint.dim(k.ljust(width))}  {console.printable(v)}" for k, v in facts.items() if v]
    if rows.get("seen"):
        out.append(paint.warn(f"  the run was trained on {int(rows['seen']):,} of these rows"))
    elif count and rows.get("seen") is None:
        out.append(paint.warn("  nobody looked whether the run was trained on these rows"))
    return out


def _figures(found: Evaluation, paint: Ink) -> list[str]:
    """A line for each metric: base, run, difference with its interval, and what that says."""
    names = [n for n in (*METRICS, *found.metrics) if n in found.metrics and not n.startswith("judge_")]
    names = list(dict.fromkeys(names))
    if not names:
        return []
    both = found.base is not None and any(n in found.base for n in names)
    level = f"{100 * float(found.settings.get('level') or 0.95):.0f} %"
    heads = ["", "base", "run", "difference", level, ""] if both else ["", "run", level]
    cells = []
    for name in names:
        mine = found.metrics[name]
        label = record.fact(name).label
        if not both:
            cells.append([label, record.shown(name, mine.value), _interval(name, mine)])
            continue
        theirs, apart = (found.base or {}).get(name), (found.difference or {}).get(name)
        cells.append(
            [
                label,
                record.shown(name, theirs.value if theirs else None),
                record.shown(name, mine.value),
                record.shown(name, apart.value if apart else None, signed=True),
                _interval(name, apart, signed=True),
                _word(name, apart),
            ]
        )

    def tint(column: int, cell: str, padded: str) -> str:
        if both and column == 5:
            return (
                paint.ok(padded) if cell == "better" else paint.warn(padded) if cell == "worse" else paint.dim(padded)
            )
        return paint.dim(padded) if cell.startswith("(") or cell == "-" else padded

    out = console.table(heads, cells, right=[1, 2, 3] if both else [1], paint=tint)
    count = int(found.rows.get("count") or 0)
    if both and any(row[5] == "no difference" for row in cells):
        rows = f"{plural(count, 'row')} can show" if count else "these examples can show"
        out.append(paint.dim(f"no difference: none that {rows}; the interval holds 0"))
    if 0 < count < FEW:
        out.append(paint.warn(f"{plural(count, 'row')} {'is' if count == 1 else 'are'} few: more would say more"))
    return out


def _word(name: str, apart: Metric | None) -> str:
    word = record.verdict(name, apart)
    return "no difference" if word.startswith("no ") else word


def _interval(name: str, metric: Metric | None, signed: bool = False) -> str:
    if metric is None or metric.low is None or metric.high is None:
        return ""
    low, high = (record.shown(name, v, signed) for v in (metric.low, metric.high))
    for unit in (" %", " pp"):
        low = low.removesuffix(unit)
        high = high.removesuffix(unit)
    return f"({low} to {high})"


def _judge(found: Evaluation, columns: int, paint: Ink) -> list[str]:
    """What another model said of the answers."""
    facts = found.settings.get("judge")
    if not facts:
        return []
    against = "the base" if facts.get("against") == "base" else str(facts.get("against"))
    pairs = facts.get("kind") == "pairwise"
    said = f"{facts.get('judge')} by {facts.get('model')}" + (f", against {against}" if pairs else "")
    out = [f"{paint.bold('judge')}  {paint.dim(console.printable(said))}"]
    names = [n for n in METRICS if n.startswith("judge_") and n in found.metrics]
    rows = []
    for name in names:
        metric = found.metrics[name]
        rows.append(
            [METRICS[name].label.removeprefix("judge: "), record.shown(name, metric.value), _interval(name, metric)]
        )
    out += console.table(["", "", ""], rows, right=[1], indent=2)[1:]
    name = "judge_win" if pairs else "judge_score"
    apart = (found.difference or {}).get(name)
    if apart is not None:
        verdict = record.verdict(name, apart) or "not enough answers to tell"
        value = record.shown(name, apart.value, signed=True)
        what = "wins less losses" if pairs else "run less base"
        out.append(f"{what} {value} {_interval(name, apart, True)}: {verdict}")
    tokens = f"{int(facts.get('tokens_in') or 0):,} tokens in, {int(facts.get('tokens_out') or 0):,} out"
    out.append(paint.dim(f"{plural(int(facts.get('asked') or 0), 'question')} asked, {tokens}"))
    for fault, count in (facts.get("faults") or {}).items():
        out += [
            paint.warn(line)
            for line in textwrap.wrap(f"{plural(count, 'question')} without an answer: {fault}", columns)
        ]
    return [out[0], *(f"  {line}" for line in out[1:])]


def _group(kind: str, groups: list[Group], found: Evaluation, paint: Ink) -> list[str]:
    names = [n for n in GROUPED if any(n in g.metrics for g in groups)]
    if not names:
        return []
    both = found.base is not None
    heads = [kind.removeprefix("column "), "rows"]
    for name in names:
        heads += [f"{GROUPED[name]}: base", "run", ""] if both else [GROUPED[name]]
    cells = []
    for group in groups:
        row = [console.printable(console.near(group.name)), f"{group.rows:,}"]
        for name in names:
            mine = group.metrics.get(name)
            row += [record.shown(name, ((group.base or {}).get(name) or Metric(None)).value)] if both else []
            row += [record.shown(name, mine.value if mine else None)]
            row += [_word(name, (group.difference or {}).get(name)).replace("no difference", "=")] if both else []
        cells.append(row)
    words = [i for i, head in enumerate(heads) if not head]

    def tint(column: int, cell: str, padded: str) -> str:
        if column in words:
            return (
                paint.ok(padded) if cell == "better" else paint.warn(padded) if cell == "worse" else paint.dim(padded)
            )
        return padded

    right = [i for i in range(1, len(heads)) if i not in words]
    return console.table(heads, cells, right=right, paint=tint)


def _samples(found: Evaluation, columns: int, paint: Ink) -> list[str]:
    """One answer of each kind; all of them are in the file."""
    out: list[str] = []
    for why in SHOWN:
        sample = next((s for s in found.samples if s.get("why") == why and s.get("answer") is not None), None)
        if sample is None:
            continue
        place, mean = console.near(str(sample.get("place") or "")), console.number(sample.get("loss"))
        out += [
            *([""] if out else []),
            f"{paint.bold(why)}  {paint.dim(f'{place}, loss {mean}')}",
        ]
        asked = str(sample.get("prompt") or "").rsplit("\n\n", 1)[-1].partition(": ")[2]
        texts = {
            "asked": asked,
            "in the data": sample.get("reference"),
            "base": sample.get("base_answer"),
            "run": sample["answer"],
        }
        for label, text in texts.items():
            if text is not None:
                out += _quoted(label, str(text), columns, paint)
    return out


def _quoted(label: str, text: str, columns: int, paint: Ink) -> list[str]:
    """A text in a few lines beside its label."""
    plain = " ".join(console.printable(text).split()) or "(nothing)"
    wrapped = textwrap.wrap(plain, max(columns - LABEL - 4, 20), break_long_words=True)
    if len(wrapped) > MOST_LINES:
        wrapped = [*wrapped[: MOST_LINES - 1], console.cut(f"{wrapped[MOST_LINES - 1]} …", columns - LABEL - 4)]
    tint: Mapping[str, Any] = {"run": str}
    paint_text = tint.get(label, paint.dim)
    first = f"  {paint.dim(label.ljust(LABEL))}  "
    return [f"{first if i == 0 else ' ' * (LABEL + 4)}{paint_text(line)}" for i, line in enumerate(wrapped)]
