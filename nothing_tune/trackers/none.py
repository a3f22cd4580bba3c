"""No tracker: the run directory's own events are all there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nothing_tune.errors import Problem


class _Nowhere:
    settles = "at once"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def summary(self, values: Mapping[str, Any]) -> None:
        pass

    def finish(self) -> None:
        pass


def check(settings: Mapping[str, Any], env: Mapping[str, str]) -> list[Problem]:
    """Nothing is needed."""
    return []


def unreachable(settings: Mapping[str, Any], env: Mapping[str, str], timeout: float) -> str | None:
    """It is always there."""
    return None


def start(settings: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: Path) -> _Nowhere:
    """A sink that keeps nothing."""
    return _Nowhere()
