"""The page of one key: what it does, its value here, default, range and unit, other values and their effect, and upstream's words."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from nothing_tune.cli import console, yaml_text
from nothing_tune.cli.console import Ink
from nothing_tune.cli.origins import origin_json, origin_text
from nothing_tune.errors import Place
from nothing_tune.recipe.compose import number
from nothing_tune.recipe.guidance import Said
from nothing_tune.recipe.guidance.setting import MISSING, Setting, below, setting
from nothing_tune.recipe.model import lookup

WIDEST = 100
"""Columns that the page takes at most: longer lines are hard to read."""
LISTED_COLUMNS = 22
"""Widest column of values in a list of keys."""
VALUE_COLUMNS = 34
"""Widest column of alternatives; longer values stand in a line of their own."""
_GLUE = "\u00a0"


def columns() -> int:
    """Columns of the page."""
    return min(console.width() or console.PIPE_WIDTH, WIDEST)


def lines(key: str, variant: Any, kind: str) -> list[str]:
    """The page of a key.

    Args:
        key: Dotted key that `setting` knows.
        variant: Has the recipe, its plan and the words that name it.
        kind: PEFT type of the recipe.
    """
    found, paint = _setting(key, kind), console.ink()
    out = [f"{paint.key(key)}  {paint.dim(whose(found))}".rstrip(), *wrapped(found.what or found.doc, "  ")]
    out += ["", *_facts(found, variant, kind, paint)]
    out += said(found, paint)
    told, _ = below(key, kind)
    if told:
        out += ["", f"{paint.bold('keys')}{paint.dim('  of a mapping')}", *rows(told, variant, kind, parent=key)]
    if found.doc and found.what:
        out += ["", paint.bold(f"{found.package} says"), *wrapped(found.doc, "  ")]
    if found.said.see:
        out += ["", paint.bold("see also"), *wrapped("  ".join(found.said.see), "  ", paint.key)]
    if any(each.sources for each in (*found.said.alternatives, *found.said.notes)):
        out += ["", paint.dim("in brackets: who says so; the rest is ours")]
    return out


def said(found: Setting, paint: Ink) -> list[str]:
    """The blocks of alternatives and guidance, each line with who says so."""
    out: list[str] = []
    if found.said.alternatives:
        out += ["", paint.bold("alternatives"), *_alternatives(found.said.alternatives, paint)]
    if found.said.notes:
        out += ["", paint.bold("guidance")]
        for note in found.said.notes:
            out += sourced(note, "  ", paint)
    return out


def whose(found: Setting) -> str:
    """`SFTConfig`, `IA3Config`; empty for keys of ours."""
    from nothing_tune.cli.show_config import peft_class

    if not found.kind:
        return ""
    return found.kind if found.kind.endswith("Config") else peft_class(found.kind)


def value_here(key: str, variant: Any) -> Any:
    """The value of a key in the plan; `MISSING` where it has none."""
    return lookup(variant.plan.values, key, MISSING)


def wrapped(text: str, indent: str, tint: Any = None) -> list[str]:
    """A text in lines of the page's width, each behind `indent`, each coloured by `tint`."""
    rows = textwrap.wrap(
        console.printable(" ".join(text.split(" "))),
        max(columns() - len(indent), 24),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [f"{indent}{tint(row) if tint else row}" for row in rows]


def sourced(each: Said, indent: str, paint: Ink, first: str = "") -> list[str]:
    """What is said, with the names of who says so at its end; `first` stands before the first line instead of `indent`."""
    names = f"({', '.join(each.names)})" if each.names else ""
    glued = names.replace(" ", _GLUE)
    rows = wrapped(f"{each.text} {glued}".strip(), indent)
    if first:
        rows[0] = first + rows[0][len(indent) :]
    return [row.replace(glued, paint.dim(names)) if glued else row for row in rows]


def data(key: str, variant: Any, kind: str) -> dict[str, Any]:
    """All of the page as plain data."""
    found = _setting(key, kind)
    value, origin = value_here(key, variant), origin_json(variant, key)
    given = MISSING if found.kind != "SFTConfig" else variant.plan.training.get(key.partition(".")[2], MISSING)
    return {
        "key": key,
        "class": whose(found) or None,
        "what": found.what or found.doc,
        "types": list(found.types),
        "values": found.allowed,
        "choices": list(found.choices),
        "usual": {"range": found.usual[0], "source": found.usual[1]} if found.usual[0] else None,
        "unit": found.unit,
        "default": {
            "value": None if found.default is MISSING else found.default,
            "set": found.default is not MISSING,
            "derived": found.derived or None,
            "line": found.place.line if found.place else None,
            "upstream": None if found.upstream is MISSING else found.upstream,
        },
        "here": {"value": None if value is MISSING else value, "set": value is not MISSING, **origin},
        "trainer": None if given is MISSING else {"value": given, "why": _compiled_why(found, variant)},
        "rule": {"how": found.rule, "reason": found.reason} if found.rule else None,
        **said_json(found),
        "see": list(found.said.see),
        "upstream": {"package": found.package, "doc": found.doc} if found.package else None,
    }


def said_json(found: Setting) -> dict[str, Any]:
    """Alternatives and guidance as plain data."""
    return {
        "alternatives": [
            {"value": a.value, "effect": a.text, "sources": list(a.titles)} for a in found.said.alternatives
        ],
        "guidance": [{"text": n.text, "sources": list(n.titles)} for n in found.said.notes],
    }


def _setting(key: str, kind: str) -> Setting:
    found = setting(key, kind)
    assert found is not None
    return found


def _facts(found: Setting, variant: Any, kind: str, paint: Ink) -> list[str]:
    """Value here, default, range and unit: a label, a value and where it comes from."""
    rows: list[tuple[str, str, str]] = []
    if found.rule == "refused":
        rows.append(("refused", "", found.reason))
    else:
        rows += _here(found, variant, kind)
        rows.append(_default(found))
    rows.append(("values", "", found.allowed))
    if found.usual[0]:
        rows.append(("usual", "", f"{found.usual[0]} ({found.usual[1]})"))
    rows.append(("unit", "", found.unit))
    left = max(len(label) for label, _, _ in rows)
    right = min(max((len(value) for _, value, _ in rows), default=0), 24)
    out = []
    for label, value, text in rows:
        start = f"  {label.ljust(left)}  "
        if len(value) > right and text:
            out.append(f"{paint.dim(start)}{value}")
            label, value, start = "", "", " " * len(start)
        shown = value.ljust(right) + "  " if value else ""
        body = [row.strip() for row in wrapped(text, " " * len(start + shown))] or [""]
        quiet = paint.dim if value else str
        out.append(f"  {paint.dim(label.ljust(left))}  {shown}{quiet(body[0])}".rstrip())
        out += [f"{' ' * len(start + shown)}{quiet(row)}" for row in body[1:]]
    return out


def _here(found: Setting, variant: Any, kind: str) -> list[tuple[str, str, str]]:
    """The value in the recipe, what it shadowed, and what the Trainer gets where that is another."""
    key, value = found.key, value_here(found.key, variant)
    if value is MISSING:
        rows = [("here", "not set", _unset(found, kind, variant))]
    else:
        origin = variant.recipe.origins.get(key)
        place = origin.place if origin and _same(origin.value, value) else None
        rows = [("here", _text(value, place), console.near(origin_text(variant, key, shadows=False)))]
        derived = str(variant.plan.why.get(key) or "").startswith("derived:")
        earlier = [*([origin] if origin and derived else []), *reversed(origin.shadowed if origin else ())]
        for each in earlier:
            where = f"{each.layer}:{each.place.line}" if each.place else each.layer
            if not _same(each.value, value):
                rows.append(("", f"was {_text(each.value, each.place)}", where))
    if found.rule == "managed":
        rows.append(("managed", "", found.reason))
    elif found.kind == "SFTConfig":
        given = variant.plan.training.get(key.partition(".")[2], MISSING)
        if given is not MISSING and value is not MISSING and given != value:
            rows.append(("trainer", _text(given), _compiled_why(found, variant)))
    return rows


def _unset(found: Setting, kind: str, variant: Any) -> str:
    if found.derived:
        return ""
    section = found.key.partition(".")[0]
    if section == "peft" and found.kind not in (kind, ""):
        nested = found.kind.endswith("Config")
        if not nested:
            return f"an option of {whose(found)}, and the method here is {kind}{_layer_with(found.kind)}"
    if section in variant.plan.values and variant.plan.values[section] is None:
        return f"{section} is null here"
    if found.upstream is not MISSING:
        return f"upstream's default holds: {_text(found.upstream)}"
    return "its default holds" if found.default is not MISSING else ""


def _layer_with(kind: str) -> str:
    """` (--with methods/ia3)`, where the library has the method."""
    from nothing_tune.recipe.library import names

    name = kind.lower()
    return f" (--with methods/{name})" if name in names("methods") else ""


def _default(found: Setting) -> tuple[str, str, str]:
    upstream = "" if found.upstream is MISSING else f"upstream {_text(found.upstream)}"
    if found.derived:
        return "default", "", found.derived + (f"; {upstream}" if upstream and found.upstream is not None else "")
    if found.default is not MISSING:
        where = f"base/qlora:{found.place.line}" if found.place else ""
        return "default", _text(found.default, found.place), "; ".join(p for p in (where, upstream) if p)
    if found.upstream is not MISSING:
        return "default", _text(found.upstream), "upstream's; base/qlora leaves it"
    return "default", "none", "from the GPU's layer" if found.key.startswith("gpu.") else ""


def _compiled_why(found: Setting, variant: Any) -> str:
    return str(variant.plan.why.get(f"SFTConfig.{found.key.partition('.')[2]}") or "")


def _alternatives(rows: Sequence[Said], paint: Ink) -> list[str]:
    room = min(max(len(r.value) for r in rows), VALUE_COLUMNS, columns() // 3)
    out = []
    for row in rows:
        indent = " " * (room + 4)
        value = paint.string(row.value) + " " * max(room - len(row.value), 0)
        if len(row.value) > room:
            out += wrapped(row.value, "  ", paint.string)
            out += sourced(row, indent, paint)
        else:
            out += sourced(row, indent, paint, f"  {value}  ")
    return out


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _text(value: Any, place: Place | None = None) -> str:
    """A value on one line: a number as the line at `place` writes it, else as recipes do."""
    return console.printable(console.cut(_written(value, place) or plain(value), 48))


def plain(value: Any) -> str:
    """A value as recipes write it: `2e-4`, `all-linear`."""
    return number(value) if isinstance(value, float) else yaml_text.text(value)


def _written(value: Any, place: Place | None) -> str:
    """The number of a line of YAML as it stands there; empty where the line says something else."""
    if place is None or not isinstance(value, float):
        return ""
    try:
        with open(place.file, encoding="utf-8") as handle:
            line = next(islice(handle, place.line - 1, place.line), "")
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r":\s*([+-]?[\d.][\d._eE+-]*)\s*(#|$)", line.rstrip())
    try:
        return found[1] if found and float(found[1]) == value else ""
    except ValueError:
        return ""


def rows(keys: Sequence[str], variant: Any, kind: str, *, parent: str = "", full: bool = False) -> list[str]:
    """A line a key: its name, its value here, and what it does, as far as the line goes."""
    paint, cells = console.ink(), []
    for key in keys:
        found, value = _setting(key, kind), value_here(key, variant)
        if ".NAME." in key:
            value = _of_groups(key, variant)
        name = key if full else key.removeprefix(f"{parent}.").removeprefix("NAME.")
        shown = "-" if value is MISSING else "..." if isinstance(value, dict) else plain(value)
        cells.append((name, console.cut(console.printable(shown), LISTED_COLUMNS), first_sentence(found)))
    left, right = (max((len(c[i]) for c in cells), default=0) for i in (0, 1))
    out = []
    for name, shown, what in cells:
        room = columns() - left - right - 6
        start = f"  {paint.key(name)}{' ' * (left - len(name))}  {shown.ljust(right)}"
        out.append(f"{start}  {paint.dim(clause(what, room))}" if room > 16 else start.rstrip())
    return out


def clause(text: str, room: int) -> str:
    """As many whole clauses of a sentence as `room` columns take; cut where not even the first one fits."""
    if len(text) <= room:
        return text
    whole = [m.start() for m in re.finditer(r"[,:;] | \(", text[: room + 1]) if m.start() >= 16]
    return text[: whole[-1]] if whole else console.cut(text, room)


def _of_groups(key: str, variant: Any) -> Any:
    """The values that groups give a key of theirs, in a list; `MISSING` where none does."""
    before, _, after = key.partition(".NAME.")
    groups = value_here(before, variant)
    found = [lookup(g, after, MISSING) for g in groups.values()] if isinstance(groups, dict) else []
    found = [value for value in found if value is not MISSING]
    return ({} if isinstance(found[0], dict) else found) if found else MISSING


def first_sentence(found: Setting) -> str:
    """What a key does in few words: its short entry, else the first sentence, without its full stop."""
    return found.said.short or (found.what or found.doc).split(". ")[0].removesuffix(".")


def names_of(keys: Iterable[str], section: str) -> list[str]:
    """Keys without their section."""
    return [key.removeprefix(f"{section}.") for key in keys]
