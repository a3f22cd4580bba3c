"""Writes a recipe that people will read: layers, only what differs from them, and beside each value the reason for it. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nothing_tune.recipe.model import lookup
from nothing_tune.recipe.reader import read_value

WIDTH = 130
"""Columns of a line with its comment; a longer comment goes above the value."""
COLUMN = 46
"""Where comments begin, as in the recipes that ship."""
SECTIONS = (
    "model", "data", "quantization", "peft", "training", "tracking", "monitor", "checkpoint", "launch", "export",
)  # fmt: skip
"""Order of the sections; others follow."""


@dataclass(frozen=True)
class Setting:
    """One value of a recipe: its dotted `key`, the `value`, and `why` it is so, one clause; `kept` even where the layers say the same."""

    key: str
    value: Any
    why: str = ""
    kept: bool = False


def differing(settings: Sequence[Setting], values: Mapping[str, Any]) -> list[Setting]:
    """The settings that say something else than `values`, what the layers below give, and those that are `kept` all the same."""
    absent = object()
    return [s for s in settings if s.kept or not _same(lookup(dict(values), s.key, absent), s.value)]


def text(
    name: str,
    layers: Sequence[str],
    settings: Sequence[Setting],
    *,
    header: Sequence[str] = (),
    description: str = "",
    schema: str = "",
) -> str:
    """The YAML of a recipe.

    Args:
        name: `name:` of the recipe.
        layers: Names of its layers, lowest first.
        settings: What it sets itself, in the order in which it is read; a key at most once.
        header: Lines of the comment at the top, without `#`.
        description: One line for lists of recipes.
        schema: Where an editor finds the JSON schema, relative to the file; empty for none.
    """
    lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
    lines += [f"# {line}".rstrip() for line in header]
    lines += ["", f"layers: [{', '.join(scalar(layer, True) for layer in layers)}]", f"name: {scalar(name)}"]
    lines += [f"description: {scalar(description)}"] if description else []
    tree = _tree(settings)
    order = [*(s for s in SECTIONS if s in tree), *(s for s in tree if s not in SECTIONS)]
    for section in order:
        lines += ["", *_lines(section, tree[section], 0)]
    return "\n".join(lines) + "\n"


def scalar(value: Any, inside: bool = False) -> str:
    """A value on one line of YAML, such that it is read again as the same: `2e-4`, `true`, `null`, `[a, b]`, `"yes"`.

    `inside`: it stands in a list or mapping of one line.
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return value if _plain(value, inside) else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k), True)}: {scalar(v, True)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(scalar(v, True) for v in value) + "]"
    return str(value)


def number(value: float) -> str:
    """A number as recipes write it: `0.05`, `2e-4`, `1.5e-3`, `3.0`."""
    if value and abs(value) < 1e-2:
        short = f"{value:.15e}"
        digits, _, power = short.partition("e")
        digits = digits.rstrip("0").rstrip(".")
        if float(f"{digits}e{int(power)}") == value and len(digits) < 8:
            return f"{digits}e{int(power)}"
    return repr(float(value))


def _quoted(value: str) -> str:
    """A text in double quotes, what is not printable as YAML's escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _plain(value: str, inside: bool) -> bool:
    """Whether a text needs no quotes: it is on one line, and recipes are read such that it is the same text again."""
    if not value or not value.isprintable() or " #" in value:
        return False
    try:
        if inside:
            return bool(read_value(f"[{value}, {value}]") == [value] * 2)
        return bool(read_value(value) == value)
    except ValueError:
        return False


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _tree(settings: Sequence[Setting]) -> dict[str, Any]:
    """Nested dicts with the settings as leaves."""
    tree: dict[str, Any] = {}
    for setting in settings:
        *parents, last = setting.key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = setting
    return tree


def _lines(key: str, node: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(node, dict):
        return [f"{pad}{key}:", *(line for name, below in node.items() for line in _lines(name, below, depth + 1))]
    line = f"{pad}{key}: {scalar(node.value)}"
    why = " ".join(node.why.split())
    if not why:
        return [line]
    beside = f"{line.ljust(COLUMN)}{'' if len(line) < COLUMN else '  '}# {why}"
    if len(beside) <= WIDTH:
        return [beside]
    room = max(WIDTH - len(pad) - 2, 40)
    return [*(f"{pad}# {part}" for part in textwrap.wrap(why, room, break_on_hyphens=False)), line]
