"""What a value of a raw row is, in words; and the values that a canonical row may hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

MAX_DEPTH = 64
"""Levels of lists and objects in a row; what is deeper is refused, as templates and writers recurse too."""

CANONICAL = frozenset({"messages", "tools", "prompt", "completion", "text"})
"""Columns that make a row what it is: no column of the raw row is carried over under one of these names."""


@dataclass(frozen=True)
class LeftOut:
    """What `join` gives in place of a canonical row for a line that is in none; `why` is one clause."""

    why: str


class BadRow(Exception):
    """A row cannot be converted; `str()` is one clause with what is wrong, such as "message 2 has no `role`"."""


def kind(value: Any) -> str:
    """What `value` is, in the words of JSON: null, true, false, a number, text, a list, an object."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def shortened(text: str, most: int = 40) -> str:
    """`text` as it is quoted in an error: at most `most` characters, escapes visible."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def words(value: Any, place: str) -> str:
    """`value` where it is text that can be written as UTF-8; `BadRow` names `place` otherwise."""
    if not isinstance(value, str):
        raise BadRow(f"{place} is {kind(value)}, not text")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise BadRow(f"{place} holds half a character (\\u{code:04x}, a lone surrogate), which is no text") from None
    return value


def filled(value: Any, place: str) -> str:
    """`value` where it is text with more than white space in it; `BadRow` names `place` otherwise."""
    if not words(value, place).strip():
        raise BadRow(f"{place} is empty")
    return str(value)


def present(row: Mapping[str, Any], names: Collection[str]) -> str | None:
    """The one column among `names` whose value is not null; None where there is none, `BadRow` where there are several."""
    found = [name for name in names if row.get(name) is not None]
    if len(found) > 1:
        raise BadRow(f"`{found[0]}` and `{found[1]}` are both there, so it cannot be told which one is meant")
    return found[0] if found else None


def plain(value: Any, place: str, keep_nulls: bool = False, depth: int = 0) -> Any:
    """A copy of `value` made of what JSON has; null values of objects are left out unless `keep_nulls`.

    Raises:
        BadRow: Something in it is no JSON, is half a character, or lies deeper than `MAX_DEPTH`.
    """
    if isinstance(value, str):
        return words(value, place)
    if isinstance(value, float) and not isfinite(value):
        raise BadRow(f"{place} holds {value}, which JSON does not have")
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= MAX_DEPTH:
        raise BadRow(f"{place} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, list | tuple):
        return [plain(item, place, keep_nulls, depth + 1) for item in value]
    if not isinstance(value, Mapping):
        raise BadRow(f"{place} holds {kind(value)}, which JSON does not have")
    out = {}
    for key, item in value.items():
        if item is not None or keep_nulls:
            out[words(key, f"a name in {place}")] = plain(item, place, keep_nulls, depth + 1)
    return out


def from_json(text: str, place: str) -> Any:
    """What the JSON `text` says; `BadRow` names `place` and the character where it stops being JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"{place} is not JSON (character {error.pos + 1})") from None
    except RecursionError:
        raise BadRow(f"{place} is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError:  # a number of more digits than Python reads
        raise BadRow(f"{place} holds a number that is too long") from None


def listed(value: Any, place: str) -> list[Any]:
    """`value` where it is a list, or JSON text of one (as in csv); `BadRow` names `place` otherwise."""
    if isinstance(value, str):
        value = from_json(words(value, place), place)
    if not isinstance(value, list | tuple):
        raise BadRow(f"{place} is {kind(value)}, not a list")
    return list(value)


def entries(value: Any) -> list[Any]:
    """The items of a list, or of JSON text of one; none where `value` is neither. For looking at rows: raises nothing."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return list(value) if isinstance(value, list | tuple) else []


def opens_list(value: Any) -> bool:
    """Whether `value` is a list, or text that opens like one and may turn out to be no JSON."""
    return isinstance(value, list | tuple) or (isinstance(value, str) and value.lstrip().startswith("["))


def others(row: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """The columns of `row` that are plain values (text, number, true, false) and neither in `used` nor in `CANONICAL`.

    A number that is none (NaN, which tables have for what is missing) is left out like null.
    """
    out: dict[str, Any] = {}
    for name, value in row.items():
        if name in used or name in CANONICAL or not isinstance(value, str | bool | int | float):
            continue
        if isinstance(value, str):
            words(value, f"`{name}`")
        elif not isfinite(value):
            continue
        out[words(name, "the name of a column")] = value
    return out
