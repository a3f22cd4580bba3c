"""What `data.train` says in short: a text, or a list of one, is a mapping with `source`."""

from __future__ import annotations

from typing import Any

from nothing_tune.errors import Place, Problem


def one_source(value: Any) -> dict[str, Any] | None:
    """The mapping that a text, or a list of one source, says in short; None for what is something else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value:
        return {"source": value}
    return value if isinstance(value, dict) and "source" in value else None


def several_sources(key: str, count: int, given: dict[str, Any], place: Place | None = None, by: str = "") -> Problem:
    """What is wrong with settings of one source, `given`, where `key` names `count` of them, and how to say it."""
    names = " and ".join(given)
    example = ", ".join(f"{name}: {value}" for name, value in given.items())
    together = key == "data.train" and list(given) == ["max_rows"]
    return Problem(
        f"{key} names {count} sources, and {names} {'is' if len(given) == 1 else 'are'} of one of them",
        key,
        place,
        by,
        f"write the whole list: {key}=[{{source: FILE, {example}}}, OTHER]"
        + (f"; data.max_samples={given['max_rows']} is for all together" if together else ""),
    )
