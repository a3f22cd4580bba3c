"""The page of `tune data inspect`: what a report says, section by section, calm and as wide as the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nothing_tune.cli import console, notices
from nothing_tune.cli.console import Ink, plural
from nothing_tune.cli.data.drawing import bar, count, histogram, one_line, percent, short, values, wide
from nothing_tune.cli.view import header

SEVERITIES = ("error", "warning", "advice")
MOST_EXAMPLES = 3
"""Examples shown of each reason for which rows are left out."""
STRANGEST = 5
MOST_ROWS = 5
"""Places shown with a finding."""
LEFT_OUT = {
    "duplicates": "duplicates",
    "near_duplicates": "near duplicates",
    "leaked": "also in the evaluation data",
    "too_short": "shorter than data.min_tokens",
    "too_long": "longer than data.max_tokens",
    "over_max_length": "longer than max_length",
    "unsupervised": "nothing to learn in them",
    "capped": "above a limit: max_rows, weight or max_samples",
}
"""What a report counts in `dropped` -> what the page says."""
CUTS = {
    "right": "longer ones lose their end",
    "left": "longer ones lose their beginning",
    "split": "longer ones are split",
    "drop": "longer ones are left out",
}
TEMPLATES = {"the model": "the model's own", "trl": "the model's own, in TRL's form for training"}
ROLES = ("system", "developer", "user", "assistant", "tool")
PADDING = {"plain": "in chance order", "grouped": "grouped by length", "packed": "packed"}
_Report = Mapping[str, Any]


def lines(report: _Report, title: str, counted: str, columns: int, paint: Ink) -> list[str]:
    """The whole page.

    Args:
        report: What the job `inspect` reports.
        title: What was inspected: a recipe or a source.
        counted: Whose tokens are counted, where nobody said; else empty.
        columns: As many as a line may take.
    """
    sections = [
        _head(report, title, counted, paint),
        _sources(report, columns, paint),
        _left_out(report, columns, paint),
        _sides(report, paint),
        _lengths(report, columns, paint),
        _cut(report, paint),
        *_fields(report, columns, paint),
        _padding(report, paint),
        _strangest(report, columns, paint),
        _findings(report, columns, paint),
    ]
    out: list[str] = []
    for section in sections:
        if section:
            out += [*([""] if out else []), *section]
    return out


def worst(report: _Report) -> str:
    """`error`, `warning` or `advice`: the gravest finding; empty without one."""
    found = {str(f.get("severity")) for f in report.get("findings") or []}
    return next((name for name in SEVERITIES if name in found), "")


def _head(report: _Report, title: str, counted: str, paint: Ink) -> list[str]:
    limit, steps = report.get("max_length"), report.get("steps") or {}
    form, kind = str(report.get("format") or ""), str(report.get("kind") or "")
    template = str(report.get("template") or "")
    length = "no row is cut"
    if limit:
        length = (
            f"rows of up to {count(limit)} tokens, {CUTS.get(str(report.get('truncation')), 'longer ones are cut')}"
        )
    facts = {
        "model": console.near(str(report.get("model") or "")),
        "tokens": counted,
        "template": TEMPLATES.get(template, console.near(template)),
        "format": f"{form}, read as {kind}" if kind and form != kind else form,
        "length": f"{length}, packed" if report.get("packing") else length,
        "evaluation": str(report.get("split") or "none"),
        "steps": _steps(report, steps),
    }
    facts = {name: console.printable(text) for name, text in facts.items()}
    seconds = float(report.get("seconds") or 0)
    how = "prepared before" if report.get("cached") else f"prepared in {seconds:.1f} s"
    return [f"{paint.bold(short(title, None))}  {paint.dim(how)}", *header(facts, paint)]


def _steps(report: _Report, steps: Mapping[str, Any]) -> str:
    if not steps.get("total"):
        return ""
    train, epochs = report.get("train") or {}, steps.get("epochs")
    rows, sequences = int(train.get("rows") or 0), int(train.get("sequences") or 0)
    what = f"{plural(rows, 'row')} in {plural(sequences, 'sequence')}" if sequences != rows else plural(rows, "row")
    much = f", {_few(epochs)} epoch{'' if epochs == 1 else 's'}" if isinstance(epochs, int | float) else ""
    batch, each = count(steps.get("global_batch")), plural(int(steps.get("per_epoch") or 0), "step")
    return f"{count(steps['total'])}: {what}, {batch} a step, {each} an epoch{much}"


def _few(number: float) -> str:
    """`3`, `0.75`, `0.013`: two places, or two digits where that would be nothing."""
    return f"{round(number, 2):g}" if number >= 0.01 or not number else f"{number:.2g}"


def _sources(report: _Report, columns: int, paint: Ink) -> list[str]:
    """A line a source; columns that would say nothing are left out."""
    rows = report.get("sources") or []
    if not rows:
        return []
    used = sum(int(r.get("used") or 0) for r in rows)
    figures: dict[str, list[str]] = {
        "format": [str(r.get("format") or "-") for r in rows],
        "files": [count(r.get("files")) for r in rows],
        "size": [console.size(int(r.get("bytes") or 0)) if r.get("bytes") else "-" for r in rows],
        "read": [count(r.get("read")) for r in rows],
        "bad": [count(r.get("bad")) for r in rows],
        "rows": [count(r.get("rows")) for r in rows],
        "used": [count(r.get("used")) for r in rows],
        "share": [percent(int(r.get("used") or 0) / used) if used else "-" for r in rows],
        "weight": [f"{r['weight']:g}" if r.get("weight") is not None else "-" for r in rows],
        "at most": [count(r.get("max_rows")) for r in rows],
    }
    silent = {name for name in ("weight", "at most", "size") if set(figures[name]) == {"-"}}
    silent |= {"files"} if all(r.get("files") in (None, 1) for r in rows) else set()
    silent |= {"share"} if len(rows) == 1 else set()
    figures = {name: cells for name, cells in figures.items() if name not in silent}

    def room() -> int:
        return columns - 2 - sum(2 + max(map(len, [name, *cells])) for name, cells in figures.items())

    longest = max(len(short(str(r.get("name")), None)) for r in rows)
    for name in ("size", "files", "read"):
        if room() < min(longest, 32):
            figures.pop(name, None)
    names = [short(str(r.get("name")), max(room(), 16)) for r in rows]
    heads = ["", *figures]
    bad = heads.index("bad")

    def tint(column: int, cell: str, padded: str) -> str:
        return paint.warn(padded) if column == bad and cell not in ("0", "-") else padded

    cells = [[name, *(column[i] for column in figures.values())] for i, name in enumerate(names)]
    right = [i for i, name in enumerate(heads) if name not in ("", "format")]
    table = console.table(heads, cells, right=right, paint=tint, indent=2)
    return _section("sources", table, paint)


def _left_out(report: _Report, columns: int, paint: Ink) -> list[str]:
    """What is not trained on, why, and where the first of each lie."""
    dropped, bad = report.get("dropped") or {}, report.get("bad_rows") or {}
    pairs = {
        "duplicates": ((report.get("duplicates") or {}).get("examples") or [], "says the same as"),
        "leaked": ((report.get("leaked") or {}).get("examples") or [], "is also"),
    }
    half = max((columns - 30) // 2, 16)
    entries: list[tuple[int, str, list[str]]] = []
    if bad.get("count"):
        examples = [f"{short(place, half)}: {one_line(why, 2 * columns)}" for place, why in bad.get("examples") or []]
        share = f" ({percent(bad['share'])} of all)" if bad.get("share") is not None else ""
        entries.append((int(bad["count"]), f"bad row{'' if bad['count'] == 1 else 's'}{share}", examples))
    for name, words in LEFT_OUT.items():
        if dropped.get(name):
            found, verb = pairs.get(name, ([], ""))
            words = words.removesuffix("s") if dropped[name] == 1 and words.endswith("duplicates") else words
            entries.append((int(dropped[name]), words, [f"{short(a, half)} {verb} {short(b, half)}" for a, b in found]))
    for why, found in (report.get("left_out") or {}).items():
        examples = [short(str(place), columns - 16) for place in found.get("examples") or []]
        entries.append((int(found.get("count") or 0), one_line(str(why), columns - 16), examples))
    if not entries:
        return _section("left out", [paint.dim("nothing")], paint)
    right = max(len(count(n)) for n, _, _ in entries)
    out = []
    for number, words, examples in entries:
        out.append(f"{count(number).rjust(right)}  {words}")
        for text in examples[:MOST_EXAMPLES]:
            wrapped = textwrap.wrap(text, columns - right - 4, subsequent_indent="  ")
            out += [f"{' ' * right}  {paint.dim(line)}" for line in wrapped]
        if number > MOST_EXAMPLES < len(examples):
            out.append(f"{' ' * right}  {paint.dim(f'and {count(number - MOST_EXAMPLES)} more')}")
    return _section("left out", out, paint)


def _both(report: _Report) -> tuple[list[str], list[_Report]]:
    """The sides that there are, and their names."""
    sides = {name: report[name] for name in ("train", "eval") if report.get(name)}
    return ["", *sides], list(sides.values())


def _sides(report: _Report, paint: Ink) -> list[str]:
    """Rows, tokens, what is learned of them, turns and roles of both sides."""
    heads, sides = _both(report)
    if not sides:
        return []

    def cells(name: str, of: Callable[[_Report], str]) -> list[str]:
        return [name, *(of(side) for side in sides)]

    rows = [cells("rows", lambda s: count(s["rows"]))]
    if any(s["sequences"] != s["rows"] for s in sides):
        rows.append(cells("sequences", lambda s: count(s["sequences"])))
    rows.append(cells("tokens", lambda s: count(s["tokens"])))
    rows.append(cells("learned", lambda s: count(s["supervised_tokens"])))
    rows.append(
        cells("share learned", lambda s: percent(s["supervised_tokens"] / s["tokens"] if s["tokens"] else None))
    )
    if any(s.get("roles") for s in sides):
        rows.append(cells("turns a row", _turns))
        found = {role for s in sides for role in s.get("roles") or {}}
        for role in sorted(found, key=lambda r: (ROLES.index(r) if r in ROLES else len(ROLES), r)):
            rows.append(cells(f"  {role}", lambda s, role=role: count((s.get("roles") or {}).get(role, 0))))  # type: ignore[misc]
    return _figures("totals", heads, rows, paint)


def _figures(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], paint: Ink) -> list[str]:
    """A title with the sides' names; names on the left, figures on the right, in the same columns in all sections."""
    cells = [[f"  {row[0]}".ljust(22), *(cell.rjust(16) for cell in row[1:])] for row in rows]
    names = "".join(f"  {paint.dim(name.rjust(16))}" for name in heads[1:])
    heading = f"{paint.bold(title)}{' ' * (22 - len(title))}{names}"
    return [heading, *("  ".join(row) for row in cells)]


def _turns(side: _Report) -> str:
    turns = side.get("turns") or {}
    if turns.get("min") == turns.get("max"):
        return count(turns.get("min"))
    return f"{count(turns.get('min'))} to {count(turns.get('max'))}, mean {float(turns.get('mean') or 0):.1f}"


def _lengths(report: _Report, columns: int, paint: Ink) -> list[str]:
    """The histogram of the training rows, and percentiles of both sides."""
    train, limit = report.get("train") or {}, report.get("max_length")
    if not train.get("histogram"):
        return []
    longest = int((train.get("lengths") or {}).get("max") or 0)
    fits = "" if limit is None or longest > limit else f", all within max_length {count(limit)}"
    note = f"tokens of a training row before cutting{fits}"
    marks = {"min": "min", "p25": "25 %", "p50": "median", "p75": "75 %", "p95": "95 %", "p99": "99 %", "max": "max"}
    heads, sides = _both(report)
    rows = []
    for name, side in zip(heads[1:], sides, strict=True):
        lengths = side.get("lengths") or {}
        rows.append([name, *(count(lengths.get(mark)) for mark in marks), count(float(lengths.get("mean") or 0))])
    table = console.table(["", *marks.values(), "mean"], rows, right=range(1, 9), indent=2)
    drawn = histogram(train["histogram"], limit, min(columns - 2, 84), paint)
    return _section("length", [*drawn, "", *table], paint, note)


def _cut(report: _Report, paint: Ink) -> list[str]:
    """What `max_length` costs; nothing where nothing is cut, which the title of the lengths says."""
    heads, sides = _both(report)
    limit = report.get("max_length")
    if not any((s.get("cut") or {}).get("rows") for s in sides):
        return []

    def cells(name: str, key: str, whole: Callable[[_Report], float] | None) -> list[str]:
        out = [name]
        for side in sides:
            number = int((side.get("cut") or {}).get(key) or 0)
            share = f"  {percent(number / whole(side)).rjust(6)}" if whole and number else ""
            out.append(f"{count(number)}{share}")
        return out

    rows = [
        cells("rows", "rows", lambda s: s["rows"]),
        cells("tokens lost", "tokens", lambda s: s["tokens_before"]),
        cells("learned lost", "supervised_tokens", lambda s: s["supervised_tokens"] + s["cut"]["supervised_tokens"]),
        cells("answers not whole", "answers", None),
    ]
    verb = "cut"
    if report.get("truncation") == "split":
        lost = any(s["cut"].get("tokens") for s in sides)
        split = cells("answers split", "answers", None)
        verb, rows = "split", [rows[0], *(rows[1:3] if lost else []), split]
    return _figures(f"{verb} at {count(limit)} tokens", heads, rows, paint)


def _fields(report: _Report, columns: int, paint: Ink) -> list[list[str]]:
    """A section for each column of the training rows with few different values: levels, languages."""
    fields = (report.get("train") or {}).get("fields") or {}
    return [
        _section(console.printable(name), values(counts, min(columns - 2, 92), paint), paint)
        for name, counts in fields.items()
        if counts
    ]


def _padding(report: _Report, paint: Ink) -> list[str]:
    shares = {
        words: share
        for name, words in PADDING.items()
        if (share := ((report.get("train") or {}).get("padding") or {}).get(name)) is not None
    }
    if not shares:
        return []
    left = max(map(len, shares))
    body = [
        f"{words.ljust(left)}  {percent(share).rjust(6)}  {paint.key(bar(share, 32))}"
        for words, share in shares.items()
    ]
    return _section("padding", body, paint, "share of a batch that holds no token")


def _strangest(report: _Report, columns: int, paint: Ink) -> list[str]:
    """The rows to look at first, of either side: where, how long, why, and how they begin."""
    rows = [row for side in _both(report)[1] for row in side.get("strangest") or []][:STRANGEST]
    if not rows:
        return []
    right = max(len(count(r.get("tokens"))) for r in rows)
    reason = max(len(str(r.get("why") or "")) for r in rows)
    places = [short(str(r.get("place")), max(columns - right - reason - 13, 20)) for r in rows]
    left = max(map(wide, places))
    out = []
    for place, row in zip(places, rows, strict=True):
        why = one_line(str(row.get("why") or ""), columns - left - right - 13)
        out.append(f"{place.ljust(left)}  {count(row.get('tokens')).rjust(right)} tokens  {why}")
        text = one_line(str(row.get("text") or ""), columns - 6)
        out += [f"  {paint.dim(text)}"] if text else []
    return _section("strangest rows", out, paint)


def _findings(report: _Report, columns: int, paint: Ink) -> list[str]:
    """Errors, warnings, advice, each with its cure; then how many there are."""
    found = sorted(report.get("findings") or [], key=lambda f: SEVERITIES.index(str(f.get("severity"))))
    if not found:
        return [verdict(report, paint)]
    named = {"data.dedupe", "data.max_bad_rows"}  # `left out` names their rows
    named |= {"data.leakage"} if (report.get("dropped") or {}).get("leaked") else set()
    out: list[str] = []
    for one in found:
        severity = str(one.get("severity"))
        tint = paint.error if severity == "error" else paint.warn
        what = notices.wrapped(f"{severity}: {one.get('what')}", columns)
        out.append(f"{tint(f'{severity}:')}{paint.bold(what[0].removeprefix(f'{severity}:'))}")
        out += [paint.bold(line) for line in what[1:]]
        rows = [] if one.get("key") in named else [str(r) for r in one.get("rows") or []]
        if rows:
            out.append(f"  {paint.dim(f'rows: {_places(rows, columns - 8)}')}")
        out += notices.hint_lines(str(one.get("hint") or ""), columns, paint)
    return [*out, "", verdict(report, paint)]


def verdict(report: _Report, paint: Ink) -> str:
    """`ready, with care: 2 warnings`: whether a training may start on the rows, and how many findings there are."""
    found = report.get("findings") or []
    numbers = [(sum(f.get("severity") == name for f in found), name) for name in SEVERITIES]
    told = ", ".join(plural(n, name, "advice" if name == "advice" else "") for n, name in numbers if n)
    return {
        "error": f"{paint.error('not ready:')} {told}",
        "warning": f"{paint.warn('ready, with care:')} {told}",
        "advice": f"{paint.ok('ready:')} {told}",
        "": f"{paint.ok('ready:')} nothing stands against training on this",
    }[worst(report)]


def _places(places: Sequence[str], room: int) -> str:
    """As many places as fit into `room` columns, one at least, and how many more there are."""
    shown: list[str] = []
    for place in places[:MOST_ROWS]:
        text = short(place, max(room - 16, 16))
        if shown and len(", ".join([*shown, text])) > room - 16:
            break
        shown.append(text)
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _section(title: str, body: Sequence[str], paint: Ink, note: str = "") -> list[str]:
    """A bold title, dim words that explain it, and its lines below."""
    head = f"{paint.bold(title)}  {paint.dim(note)}" if note else paint.bold(title)
    return [head, *(f"  {line}".rstrip() for line in body)]
