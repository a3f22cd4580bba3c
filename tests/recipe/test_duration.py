"""Durations as recipes write them."""

from __future__ import annotations

import pytest

from nothing_tune.recipe import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("23h50m", 85800), ("90m", 5400), ("45s", 45), ("1d12h", 129600), ("1h0m1s", 3601), ("007s", 7)],
)
def test_seconds(text: str, seconds: int) -> None:
    assert duration.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "0h0m", "90", "5.5h", "1m1h", "1h 2m", "-1h", "1H", "٣m", "1h\n", "h"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        duration.seconds(text)
