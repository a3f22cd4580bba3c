"""`tune compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.console import Ink
from nothing_tune.errors import UsageError

if TYPE_CHECKING:
    from nothing_tune.outputs.comparison import Comparison
    from nothing_tune.outputs.evaluated import Compared
    from nothing_tune.outputs.lines import Line

EXAMPLES = (
    ("tune compare ONE OTHER", "what differs, and how they went"),
    ("tune compare ONE OTHER THIRD --all", "every setting, also those that are the same"),
    ("tune compare ONE OTHER --json", "for a program"),
)
EXITS = (0, 2)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NARROWEST = 11
"""Columns that a run has at least; where there is no room for that, runs follow in a second table."""
LABEL = 30
"""Columns of the labels at most."""
BEST = "*"


def command(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_ID RUN_ID...",
            help="Two runs or more: ids, the starts of ids, paths, or `latest`.",
            autocompletion=options.complete_runs,
            show_default=False,
        ),
    ],
    all_: Annotated[bool, typer.Option("--all", help="Show settings that are the same, too.")] = False,
    runs_dir: options.RunsDir = None,
    json: options.Json = False,
) -> None:
    """Shows what differs between runs, then how they went; compares nothing that is not of the same rows."""
    from nothing_tune.artifacts import find_run, runs_root
    from nothing_tune.outputs.comparison import compare, gathered

    root = runs_root(runs_dir)
    found = [find_run(name, root) for name in run_ids]
    twice = next((run.id for n, run in enumerate(found) if run.path in [r.path for r in found[:n]]), None)
    if twice:
        raise UsageError(f"{twice} is named twice", hint="give each run once")
    if len(found) < 2:
        raise UsageError("one run alone cannot be compared", hint=f"tune runs show {found[0].id} tells all about it")
    if len(found) > len(LETTERS):
        raise UsageError(f"{len(found)} runs are too many at once", hint=f"give up to {len(LETTERS)}")
    comparison = compare([gathered(run) for run in found], everything=all_)
    if json:
        console.out_json(comparison.to_json())
        return
    console.out(*page(comparison, console.ink()))


def page(comparison: Comparison, paint: Ink) -> list[str]:
    """The lines of a comparison."""
    width = console.width() or console.PIPE_WIDTH
    out = _head(comparison, paint)
    sections = [(section, lines, 2) for section, lines in comparison.recipe.items()]
    tables: list[tuple[str, Groups, list[str]]] = [
        ("recipe", sections, []),
        ("data", [("", comparison.data, 0)], _same_rows(comparison)),
        ("how they went", [("", comparison.went, 0)], []),
        *((f"evaluation {e.name}", [("", e.lines, 0)], _of_rows(e)) for e in comparison.evaluated),
        ("exports", [("", comparison.exports, 0)], []),
    ]
    for title, groups, below in tables:
        if any(lines for _, lines, _ in groups):
            out += ["", *_table(title, groups, len(comparison.runs), width, paint)]
        elif title == "recipe":
            out += ["", paint.bold("recipe"), paint.dim("  the same in all")]
        out += [paint.dim(f"  {line}") for line in below]
    marked = [line.best for line in (*comparison.went, *(m for e in comparison.evaluated for m in e.lines))]
    notes = [f"{BEST} the best of those that can be compared"] if any(marked) else []
    notes += comparison.notes
    if notes:
        out += ["", *(piece for note in notes for piece in _wrapped(note, width, paint))]
    return out


def _head(comparison: Comparison, paint: Ink) -> list[str]:
    left = max(len(run["id"]) for run in comparison.runs)
    out = []
    for letter, run in zip(LETTERS, comparison.runs, strict=False):
        tint = {"done": paint.ok, "running": paint.key}.get(str(run["state"]), paint.warn)
        out.append(f"{paint.bold(letter)}  {run['id'].ljust(left)}  {tint(str(run['state']))}")
        if run.get("problem"):
            out.append(paint.dim(f"   {console.printable(console.near(str(run['problem'])))}"))
    return out


def _same_rows(comparison: Comparison) -> list[str]:
    same = [{"train": "training", "eval": "evaluation"}[role] for role, yes in comparison.same_rows.items() if yes]
    damaged = any(run.get("problem") for run in comparison.runs)
    where = "where they are known" if damaged else "in all"
    out = [f"the {' and '.join(same)} rows are the same {where}"] if same else []
    if any(any(line.details) for line in comparison.data):
        out.append("set 1, set 2: runs of one set have the same rows, runs of another have others")
    return out


def _of_rows(one: Compared) -> list[str]:
    if one.rows_differ:
        several = max((sum(v is not None for v in line.values) for line in one.lines), default=0) > 1
        return [
            f"{'each of other rows: not compared' if several else 'of one run alone'}; intervals hold 95 in 100 times"
        ]
    same = "of the same files" if one.tokenizers_differ else "the same in all"
    out = [f"{console.plural(one.rows, 'row')}, {same}; intervals hold 95 in 100 times"] if one.rows else []
    if one.tokenizers_differ:
        out.append("the tokenizers differ: bits per byte can be compared, what counts tokens cannot")
    if one.settings_differ:
        out.append("answers were drawn with other settings: what is measured of them is not compared")
    return out


def _wrapped(text: str, width: int, paint: Ink) -> list[str]:
    import textwrap

    return [paint.dim(line) for line in textwrap.wrap(console.printable(text), min(width, console.PIPE_WIDTH))]


Groups = Sequence[tuple[str, "Sequence[Line]", int]]


def _table(title: str, groups: Groups, runs: int, width: int, paint: Ink) -> list[str]:
    """A table of all runs, or several of as many as there is room for."""
    cells = {id(line): [_cell(line, n) for n in range(runs)] for _, lines, _ in groups for line in lines}
    left = min(max(len(line.label) + 2 + deep for _, lines, deep in groups for line in lines), LABEL)
    left = max(left, len(title))
    together = max((width - left) // (NARROWEST + 2), 1)
    out: list[str] = []
    for start in range(0, runs, together):
        some = range(start, min(start + together, runs))
        share = (width - left) // len(some) - 2
        sizes = [min(max([len(c[n]) for c in cells.values()] + [1]), share) for n in some]
        heads = "".join(f"  {LETTERS[n].ljust(size)}" for n, size in zip(some, sizes, strict=True))
        out += [""] if out else []
        out.append(f"{paint.bold(title.ljust(left))}{paint.bold(heads)}".rstrip())
        for section, lines, deep in groups:
            if section:
                out.append(f"  {paint.key(section)}")
            for line in lines:
                out += _row(line, cells[id(line)], some, sizes, left, deep, paint)
    return out


def _row(
    line: Line, cells: Sequence[str], some: range, sizes: Sequence[int], left: int, deep: int, paint: Ink
) -> list[str]:
    """A line of the table; values for which there is no room stand below it, one on each line."""
    label = " " * (2 + deep) + line.label
    tints: list[Callable[[str], str]] = [_tint(line, n, paint) for n in some]
    long = len(label) > left or any(len(cells[n]) > size for n, size in zip(some, sizes, strict=True))
    if not long:
        parts = [
            tint(cells[n]) + " " * (size - len(cells[n])) for n, size, tint in zip(some, sizes, tints, strict=True)
        ]
        return [f"{label.ljust(left)}  {'  '.join(parts)}".rstrip()]
    pad = " " * (4 + deep)
    return [label, *(f"{pad}{paint.dim(LETTERS[n])}  {tint(cells[n])}" for n, tint in zip(some, tints, strict=True))]


def _tint(line: Line, place: int, paint: Ink) -> Callable[[str], str]:
    value = line.values[place]
    if place in line.best:
        return paint.bold
    if line.key == "state":
        return {"done": paint.ok}.get(str(value), paint.warn)
    if line.details and line.details[place] == "proof failed":
        return paint.error
    return paint.dim if value is None else str


def _cell(line: Line, place: int) -> str:
    """A value as it is written, with what stands after it."""
    from nothing_tune.outputs.lines import written

    text = console.printable(console.near(written(line, place)))
    if text == "-":
        return text
    detail = line.details[place] if line.details else ""
    text += BEST if place in line.best else ""
    if line.form == "metric" and detail:
        return f"{text} ({detail})"
    return f"{text}, {detail}" if line.form == "bytes" and detail else f"{text} {detail}".rstrip()
