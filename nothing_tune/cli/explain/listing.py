"""Pages about several keys: all of them by section, and the keys of one section or mapping with a line each."""

from __future__ import annotations

import textwrap
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.explain import page
from nothing_tune.recipe.guidance.setting import MISSING, ORDER, Setting, below, setting
from nothing_tune.recipe.schema import NULLABLE, TOP


def overview() -> list[str]:
    """Each section, what it is for, and its keys in columns."""
    paint = console.ink()
    left = max(map(len, ORDER)) + 2
    out = []
    for name, what, keys in _sections():
        room = page.columns() - left
        out.append(f"{paint.bold(name)}{' ' * (left - len(name))}{paint.dim(page.clause(what, room))}")
        rows = textwrap.wrap("  ".join(keys), room, break_on_hyphens=False)
        out += [f"{' ' * left}{paint.key(row)}" for row in rows]
    return [*out, "", paint.dim("tune explain KEY tells all about one of them, tune explain SECTION a line about each")]


def overview_json() -> dict[str, Any]:
    """As `overview`, with what each key does."""
    sections = []
    for name, what, keys in _sections():
        prefix = "" if name == "recipe" else f"{name}."
        rows = [{"key": f"{prefix}{key}", "what": _setting(f"{prefix}{key}").what} for key in keys]
        sections.append({"section": name, "what": what, "keys": rows})
    return {"sections": sections}


def section(key: str, variant: Any, kind: str) -> list[str]:
    """What a section is for, and its keys with their values here and a line each."""
    paint, found = console.ink(), _setting(key, kind)
    told, more = below(key, kind)
    null = page.value_here(key, variant) is None
    state = f"null in {variant.words}" if null else "null switches it off" if key in NULLABLE else ""
    out = [f"{paint.key(key)}  {paint.dim(state)}".rstrip(), *page.wrapped(found.what, "  ")]
    out += page.said(found, paint)
    out += ["", paint.bold("keys") + paint.dim(f"  with their values in {variant.words}")]
    out += page.rows(told, variant, kind, parent=key)
    if more:
        whose = page.whose(_setting(more[0], kind))
        out += ["", f"{paint.bold('more')}{paint.dim(f'  of {whose}, as upstream describes them')}"]
        out += page.wrapped("  ".join(page.names_of(more, key)), "  ", paint.key)
    return out


def section_json(key: str, variant: Any, kind: str) -> dict[str, Any]:
    """As `section`."""
    told, more = below(key, kind)
    found = _setting(key, kind)
    return {
        "key": key,
        "what": found.what,
        **page.said_json(found),
        "keys": [row_json(each, variant, kind) for each in told],
        "more": list(more),
    }


def row_json(key: str, variant: Any, kind: str) -> dict[str, Any]:
    """`{key, what, value, set}`."""
    value = page.value_here(key, variant)
    return {
        "key": key,
        "what": _setting(key, kind).what,
        "value": None if value is MISSING else value,
        "set": value is not MISSING,
    }


def _setting(key: str, kind: str = "LORA") -> Setting:
    found = setting(key, kind)
    assert found is not None, key
    return found


def _sections() -> list[tuple[str, str, list[str]]]:
    """`(section, what it is for, names of its keys)`; the keys of no section first."""
    out = [("recipe", "What stands in no section", list(TOP))]
    for name in ORDER:
        out.append((name, page.first_sentence(_setting(name)), page.names_of(below(name)[0], name)))
    return out
