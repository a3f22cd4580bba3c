"""What `tune data generate` does, as plain data: the recipe's `generate` section with every default filled, one entry a group."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from nothing_tune.errors import Problem, UsageError
from nothing_tune.recipe.model import Recipe, origin_of
from nothing_tune.recipe.schema import SECTIONS, Field

ORIGINS = ("model.name_or_path",)
"""Keys outside of `generate` whose origins the job's messages name."""


@dataclass(frozen=True)
class Generation:
    """All that the job needs.

    Attributes:
        name: The recipe's name.
        settings: The section `generate`; in `groups` each named group with its `target`, `system`, `row_system` and `sampling`
            in full, and under "" those of every other group.
        model: The recipe's `model`: what will be trained.
        origins: Dotted key -> `[place or None, layer]` of what the recipe sets, for messages.
    """

    name: str
    settings: dict[str, Any]
    model: dict[str, Any]
    origins: dict[str, list[Any]]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, "settings": self.settings, "model": self.model, "origins": self.origins}


def generation(recipe: Recipe) -> Generation:
    """What `recipe` says about making rows. `UsageError` when it says nothing."""
    written = recipe.values.get("generate")
    if not written:
        raise UsageError(
            Problem(
                f"recipe {recipe.name} says nothing about making rows: it has no section generate",
                key="generate",
                hint="tune show-config marco shows one that has; docs/generate.md explains the section",
            )
        )
    filled = _filled(SECTIONS["generate"], written)
    usual = {
        "target": None,
        "system": filled["system"],
        "row_system": filled["row_system"],
        "sampling": filled["sampling"],
    }
    groups = {"": usual}
    for name, own in (written.get("groups") or {}).items():
        given = {k: v for k, v in (own or {}).items() if k != "sampling"}
        sampling = {**filled["sampling"], **((own or {}).get("sampling") or {})}
        groups[str(name)] = {**usual, **given, "sampling": sampling}
    filled["groups"] = groups
    origins = {}
    for key, origin in recipe.origins.items():
        if key.startswith("generate.") or key in ORIGINS:
            place = origin.place
            origins[key] = [[place.file, place.line, place.column] if place else None, str(origin)]
    whole = origin_of(recipe.origins, "generate")
    if whole is not None:
        origins.setdefault("generate", [None, str(whole)])
    return Generation(recipe.name, filled, copy.deepcopy(recipe.values.get("model") or {}), origins)


def _filled(fields: dict[str, Field], written: dict[str, Any]) -> dict[str, Any]:
    """`written` with the defaults of the table where it says nothing; null stands where it is allowed."""
    out: dict[str, Any] = {}
    for name, field in fields.items():
        value = written.get(name, field.default)
        if field.fields is not None and "dict" in field.types and not field.each and name != "prompts":
            out[name] = _filled(field.fields, value or {})
        else:
            out[name] = copy.deepcopy(value)
    return out
