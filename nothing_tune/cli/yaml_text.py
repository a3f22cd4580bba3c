"""Writes values as YAML, one line a leaf, so that each line can carry its origin. What is written reads back the same."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from nothing_tune.cli.console import Ink

_PLAIN = re.compile(r"^[A-Za-z_/.$(](?:[\w ./+=@$(){}~<>|^,;'!?%&*-]|:(?=\S)|(?<=\S)#)*$", re.ASCII)
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "~"})
_ODD = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
_LINE = 88
"""Longest list, in characters, that is written in one line."""


@dataclass(frozen=True)
class Line:
    """One line of YAML.

    Attributes:
        key: Dotted key of the leaf that starts in this line; empty for section heads and continuation lines.
        depth: Levels of indentation.
        label: `name:` or `-` before the value; empty in continuation lines.
        value: The value as YAML; empty for section heads.
        kind: `section`, `text`, `other`, or `blank`.
    """

    key: str
    depth: int
    label: str
    value: str
    kind: str

    def plain(self) -> str:
        """The line without colour."""
        return ("  " * self.depth + " ".join(p for p in (self.label, self.value) if p)).rstrip()

    def coloured(self, paint: Ink) -> str:
        """The line: keys cyan, texts green."""
        label = paint.dim("-") if self.label == "-" else paint.key(self.label[:-1]) + ":" if self.label else ""
        value = paint.string(self.value) if self.kind == "text" else self.value
        return ("  " * self.depth + " ".join(p for p in (label, value) if p)).rstrip()


def lines(values: dict[str, Any], prefix: str = "", depth: int = 0) -> list[Line]:
    """The lines of nested dicts; a blank line before each top-level section."""
    rows: list[Line] = []
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        label = f"{scalar(str(name))}:"
        if isinstance(value, dict) and value:
            if depth == 0 and rows:
                rows.append(Line("", 0, "", "", "blank"))
            rows.append(Line("", depth, label, "", "section"))
            rows.extend(lines(value, key, depth + 1))
        else:
            rows.extend(_leaf(key, depth, label, value))
    return rows


def text(value: Any) -> str:
    """A leaf in one line: a scalar, or a list or mapping in brackets."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inside(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_inside(str(k))}: {_inside(v)}" for k, v in value.items()) + "}"
    return scalar(value)


def scalar(value: Any) -> str:
    """One YAML scalar; texts are quoted only where YAML would read them as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    word = str(value)
    safe = _PLAIN.match(word) and word == word.strip() and word.lower() not in _WORDS and not _numeric(word)
    return word if safe else _quoted(word)


def _leaf(key: str, depth: int, label: str, value: Any) -> list[Line]:
    if isinstance(value, str) and _block(value):
        rows = value.removesuffix("\n").split("\n")
        body = [Line("", depth + 1, "", row, "text") if row else Line("", 0, "", "", "blank") for row in rows]
        return [Line(key, depth, label, "|" if value.endswith("\n") else "|-", "other"), *body]
    flow = text(value)
    if isinstance(value, list) and len(flow) > _LINE:
        items = [Line("", depth + 1, "-", text(item), _kind(item)) for item in value]
        return [Line(key, depth, label, "", "section"), *items]
    return [Line(key, depth, label, flow, _kind(value))]


def _block(value: str) -> bool:
    """Whether a text of several lines can be written as a YAML block without loss."""
    return (
        "\n" in value
        and not value.startswith((" ", "\n", "\t"))
        and not value.endswith("\n\n")
        and value.strip("\n") != ""
        and all(character >= " " or character == "\n" for character in value)
        and not _ODD.search(value)
        and not any(row != row.rstrip() for row in value.split("\n"))
    )


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "other"


def _inside(item: Any) -> str:
    """An item of a list or mapping in brackets, where more texts need quotes."""
    if isinstance(item, list | tuple | dict):
        return text(item)
    word = scalar(item)
    return _quoted(item) if isinstance(item, str) and word[0] != '"' and re.search(r"[{}\[\],:]", word) else word


def _quoted(word: str) -> str:
    """A text in double quotes, with escapes for what YAML refuses or a terminal would obey."""
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(word, ensure_ascii=False))


def _float(value: float) -> str:
    if value != value:
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    word = repr(value)
    if "e" in word and "." not in word:
        word = word.replace("e", ".0e")
    return word


def _numeric(word: str) -> bool:
    return bool(re.match(r"^[-+.]?[0-9.]", word)) or word.lower().lstrip("+-.") in ("inf", "nan")
