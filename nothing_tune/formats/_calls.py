"""Tools and tool calls in the one form that chat templates read: arguments are objects, never JSON text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._values import BadRow, from_json, kind, listed, plain, words


def tools(value: Any, place: str = "`tools`") -> list[dict[str, Any]]:
    """The list of {"type": "function", "function": {...}} in `value`: a list, JSON text of one, or None (no tools).

    Functions that stand bare ({"name", "description", "parameters"}) get their wrapping.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    out = []
    for number, entry in enumerate(listed(value, place), 1):
        which = f"{place}, number {number}"
        if isinstance(entry, str):
            entry = from_json(words(entry, which), which)
        if not isinstance(entry, Mapping):
            raise BadRow(f"{which} is {kind(entry)}, not an object")
        inner = entry.get("function") if isinstance(entry.get("function"), Mapping) else entry
        sort = entry.get("type")
        if inner is not entry and sort not in (None, "function"):
            raise BadRow(f"{which} has a `type` that is not 'function'")
        out.append({"type": "function", "function": function(inner, which)})
    return out


def function(value: Any, place: str) -> dict[str, Any]:
    """A function's definition: an object with a name, nulls left out."""
    if not isinstance(value, Mapping):
        raise BadRow(f"{place} is {kind(value)}, not an object")
    named(value, place)
    out: dict[str, Any] = plain(value, place)
    parameters = out.get("parameters", {})
    if isinstance(parameters, str):
        parameters = plain(from_json(parameters, f"`parameters` of {place}"), f"`parameters` of {place}")
        out["parameters"] = parameters
    if not isinstance(parameters, dict):
        raise BadRow(f"`parameters` of {place} is {kind(parameters)}, not an object")
    return out


def calls(value: Any, place: str) -> list[dict[str, Any]]:
    """The list of {"type": "function", "function": {"name", "arguments"}, "id"?} in `value`, a list or JSON text of one."""
    made = listed(value, f"`tool_calls` of {place}")
    return [call(entry, f"{place}, tool call {number}") for number, entry in enumerate(made, 1)]


def call(value: Any, place: str) -> dict[str, Any]:
    """One tool call from {"type", "function": {"name", "arguments"}, "id"}, or from a bare {"name", "arguments"}.

    Arguments that are null are kept, as somebody wrote them; `data` takes out those that Arrow fills objects up with.
    """
    if not isinstance(value, Mapping):
        raise BadRow(f"{place} is {kind(value)}, not an object")
    inner = value.get("function", value)
    if inner is None:
        inner = value
    if not isinstance(inner, Mapping):
        raise BadRow(f"`function` of {place} is {kind(inner)}, not an object")
    if value.get("type") not in (None, "function"):
        raise BadRow(f"{place} has a `type` that is not 'function'")
    name = named(inner, place)
    given = inner.get("arguments", inner.get("parameters"))
    out: dict[str, Any] = {
        "type": "function",
        "function": {"name": name, "arguments": arguments(given, f"`arguments` of {place}")},
    }
    if value.get("id") is not None:
        out["id"] = words(value["id"], f"`id` of {place}")
    return out


def arguments(value: Any, place: str) -> dict[str, Any]:
    """The object of arguments in `value`: an object, JSON text of one, or nothing at all."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    as_text = isinstance(value, str)
    given = from_json(words(value, place), place) if as_text else value
    if not isinstance(given, Mapping):
        raise BadRow(f"{place} is {'JSON of ' if as_text else ''}{kind(given)}, not an object")
    out: dict[str, Any] = plain(given, place, keep_nulls=True)
    return out


def named(value: Mapping[str, Any], place: str) -> str:
    """The `name` in `value`, text that is not empty."""
    name = value.get("name")
    if name is None:
        raise BadRow(f"{place} has no `name`")
    if not words(name, f"`name` of {place}").strip():
        raise BadRow(f"`name` of {place} is empty")
    return str(name)
