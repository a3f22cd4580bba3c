"""What is known of one key of ours: its type, meaning, values and range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """One key of ours.

    Attributes:
        types: As in `upstream.Option.types`.
        doc: One sentence: meaning, unit, what null or zero mean.
        default: Value of base/qlora, for the documentation.
        choices: Valid texts; empty when any will do.
        low: Smallest valid number; `above` excludes it.
        high: Largest valid number; `below` excludes it.
        fields: The keys below this one, for a nested mapping and for each mapping in a list.
        each: `fields` are the keys below each value of this mapping, whose own keys are free names.
        pattern: Regular expression that the whole text must match; empty when any will do.
        example: A text that matches `pattern`, for messages.
    """

    types: tuple[str, ...]
    doc: str
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    above: bool = False
    high: float | None = None
    below: bool = False
    fields: dict[str, Field] | None = None
    each: bool = False
    pattern: str = ""
    example: str = ""


STR, TEXT, NAMES = ("str",), ("str", "null"), ("list[str]",)
BOOL, MAYBE = ("bool",), ("bool", "null")
COUNT, NUMBER = ("int", "null"), ("float", "null")
