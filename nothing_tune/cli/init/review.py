"""The lines of the review page of `tune init`: every answer and knob by number with its reason, and the plan."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from nothing_tune.cli import console
from nothing_tune.cli.init import fit, writing
from nothing_tune.cli.init.questions import QUESTIONS, Question
from nothing_tune.cli.init.state import State, knobs
from nothing_tune.recipe import compose, defaults

ROW_SHOWN = 160
"""Characters of each part of the first row that are shown."""


@dataclass(frozen=True)
class Row:
    """One line that can be changed: the answer's or knob's `name`, what it is called, its value and the reason."""

    name: str
    heading: str
    value: str
    why: str = ""


def rows(state: State) -> list[Row]:
    """All lines of the review, the answers first."""
    out = [Row(q.name, q.heading or q.name, q.told(state)) for q in QUESTIONS if q.when(state)]
    for name, one in knobs(state).items():
        out.append(Row(name, name.replace("_", " "), defaults.shown(one.value), one.why))
    return out


def page(state: State, lines: list[Row], paint: console.Ink) -> list[str]:
    """The review page: the lines with their numbers, then the plan."""
    columns = console.width() or console.PIPE_WIDTH
    answers = [row for row in lines if not row.why]
    left = max(len(row.heading) for row in lines)
    out = [paint.bold("Review")]
    small = max((len(row.value) for row in lines if row.why), default=0)
    for number, row in enumerate(lines, 1):
        head = f"{number:>4}  {row.heading.ljust(left)}  "
        if row.why and len(answers) == number - 1:
            out.append("")
        if not row.why:
            name, bracket, rest = row.value.partition("  (")
            told = f"{name}{paint.dim(bracket + rest)}" if bracket else name
            out.append(console.cut_coloured(f"{paint.dim(head)}{told}", columns))
            continue
        room = columns - len(head) - small - 3
        first, *more = textwrap.wrap(row.why, max(room, 30), break_on_hyphens=False)
        out.append(f"{paint.dim(head)}{row.value.ljust(small)}  {paint.dim(first)}")
        out += [f"{' ' * (len(head) + small + 2)}{paint.dim(line)}" for line in more]
    return [*out, "", *_plan(state, paint)]


def _plan(state: State, paint: console.Ink) -> list[str]:
    """The plan's own page, and what was set for it; the problems instead where there is none."""
    from nothing_tune.cli.plan.page import facts, warnings
    from nothing_tune.cli.view import header

    settled, error = console.outcome(lambda: writing.settle(state))
    if settled is None:
        return [line for p in (error.problems if error else ()) for line in console.problem_lines(p, paint)]
    found, told = settled.forecast, {}
    if found.rows.tokens and found.rows.train:
        usual, longest = round(found.rows.tokens / found.rows.train), found.rows.longest or 0
        told["rows"] = f"about {usual:,} tokens each, at most {longest:,}, by their bytes"
    lines = header({**told, **facts(found, paint)}, paint)
    for one in (*fit.musts(state.model, state.method), *settled.more):
        said = f"{one.key}={compose.scalar(one.value)}: {one.why}"
        room = max((console.width() or console.PIPE_WIDTH) - 10, 30)
        first, *more = textwrap.wrap(said, room, break_on_hyphens=False)
        lines += [f"  {paint.warn('set')}     {first}", *(f"          {line}" for line in more)]
    seen = [p for p in settled.warnings if p.key == "data.max_bad_rows"]
    return [*lines, *(line for p in seen for line in console.problem_lines(p, paint)), *warnings(found, paint)]


def echo(state: State, question: Question) -> list[str]:
    """What is said after an answer: what was found there."""
    paint = console.ink()
    if question.name == "data":
        return _data(state, paint)
    if question.name in ("model", "gpu", "goal", "method"):
        return [paint.dim(f"  {question.told(state)}")]
    return [paint.dim(f"  {question.told(state)}")] if state.given[question.name] != question.told(state) else []


def _data(state: State, paint: console.Ink) -> list[str]:
    data = state.data
    out = [f"  {paint.ok(data.told)}" if data.format else paint.warn(f"  {data.note}")]
    if data.first_bad:
        out.append(f"  {paint.warn(f'the first bad one: {data.first_bad}')}")
    left = max((len(who) for who, _ in data.first), default=0)
    for who, said in data.first:
        text = console.cut(console.printable(said), min(ROW_SHOWN, (console.width() or console.PIPE_WIDTH) - left - 6))
        out.append(f"  {paint.dim(who.rjust(left))}  {paint.dim(text)}")
    return out


def on_hub(text: str) -> bool:
    """Whether an answer names data of the hub."""
    from nothing_tune.cli.init.data import split_columns
    from nothing_tune.data.sources import is_file

    return not is_file(split_columns(text)[0])
