"""Whether `--with models/nano` would rehearse a recipe: hints offer it only where it works."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from nothing_tune.recipe.model import lookup

NANO = ("models", "nano")
"""The last parts of the folder of the model that ships."""


def rehearsable(values: dict[str, Any]) -> bool:
    """Whether the recipe with these `values` brings a sample to train on, and names another model than the one that ships."""
    model = str(lookup(values, "model.name_or_path") or "")
    return bool(lookup(values, "data.sample.train")) and PurePath(model).parts[-2:] != NANO
