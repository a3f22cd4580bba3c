"""Durations as recipes write them: `23h50m`, `90m`, `45s`, `1d12h`."""

from __future__ import annotations

import re

PATTERN = r"(?=.*[1-9])(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?"
"""Days, hours, minutes and seconds, in this order, any of them left out, together above zero."""
_PART = re.compile(r"([0-9]+)([dhms])")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> int:
    """The duration in seconds; `ValueError` when `text` is none."""
    if not re.fullmatch(PATTERN, text, re.ASCII):
        raise ValueError(f"{text!r} is no duration")
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
