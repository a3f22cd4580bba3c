"""What a rule between fields sees: merged values that are right by themselves, and where each came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nothing_tune.errors import Problem
from nothing_tune.recipe.model import Origin, lookup, origin_of


@dataclass(frozen=True)
class View:
    """Values without those that are wrong by themselves, so that a rule never meets a wrong type."""

    values: dict[str, Any]
    origins: dict[str, Origin]

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key; `default` where it is absent or null."""
        value = lookup(self.values, key)
        return default if value is None else value

    def number(self, key: str) -> float | None:
        """The number at a dotted key; None where there is none."""
        value = lookup(self.values, key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def null(self, key: str) -> bool:
        """Whether a layer sets the key to null."""
        section, _, name = key.rpartition(".")
        inner = lookup(self.values, section) if section else self.values
        return isinstance(inner, dict) and name in inner and inner[name] is None

    def written(self, *keys: str) -> str:
        """The first of `keys` that a layer sets; the first one where none does."""
        return next((k for k in keys if lookup(self.values, k) is not None or self.null(k)), keys[0])

    def latest(self, *keys: str) -> str:
        """The one of `keys` that the last layer sets: where two values disagree, the one just written is to blame."""
        known = [(self.origins[k].n, -i, k) for i, k in enumerate(keys) if k in self.origins]
        return max(known)[2] if known else keys[0]

    def problem(self, key: str, what: str, hint: str = "", severity: str = "error") -> Problem:
        """A problem that stands where `key` was set."""
        origin = origin_of(self.origins, key)
        place, layer = (origin.place, str(origin)) if origin else (None, "")
        return Problem(what, key, place, layer, hint, severity)

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to evaluate on: a share above 0, or a source."""
        return self.get("data.eval") not in (None, 0, 0.0, "", [])

    @property
    def gpu(self) -> str:
        """The GPU as messages name it."""
        return str(self.get("gpu.name", "this GPU"))
