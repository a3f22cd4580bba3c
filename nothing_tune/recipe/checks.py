"""Checks of a recipe (placeholder until the checks land)."""

from __future__ import annotations

from typing import Any

from nothing_tune.errors import Place, Problem
from nothing_tune.recipe.model import Layer, Origin


def check(values: dict[str, Any], origins: dict[str, Origin], layers: tuple[Layer, ...]) -> list[Problem]:
    return []


def check_blocks(block: dict[str, Any], prefix: str, places: dict[str, Place]) -> list[Problem]:
    return []


def as_written(key: str, value: Any) -> Any:
    return value
