"""Trackers, one file each: the file's name is the tracker's name in `tracking.tracker`.

A tracker module has two functions: `check(settings, env)`, light, which lists what is missing before a run starts; and
`start(settings, run_id, name, config, folder)`, which returns a `Sink`. A tracker that fails never ends a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from nothing_tune.errors import Problem, UsageError


class Sink(Protocol):
    """Where the metrics of one run go."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers of optimizer step `step`; steps never decrease within an attempt."""

    def finish(self) -> None:
        """Writes out what is pending; nothing is logged afterwards."""


class Tracker(Protocol):
    """What a tracker module offers."""

    def check(self, settings: Mapping[str, Any], env: Mapping[str, str]) -> list[Problem]:
        """What is missing to use the tracker with the recipe's `tracking` settings; imports no heavy package."""

    def start(
        self, settings: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: Path
    ) -> Sink:
        """Begins, or goes on with, the run `run_id`, called `name`; files go below `folder`."""


def names() -> list[str]:
    """All trackers, by file."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def find(name: str) -> Tracker:
    """The tracker called `name`; `UsageError` names the ones that exist."""
    if name not in names():
        raise UsageError(
            Problem(f"there is no tracker {name!r}", key="tracking.tracker", hint=f"it is one of {', '.join(names())}")
        )
    return cast(Tracker, import_module(f"nothing_tune.trackers.{name}"))


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without what may be a secret: keys that name tokens, keys or passwords are left out at any depth."""
    hidden = ("token", "api_key", "password", "secret")
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = str(key).lower()
        if any(name == h or name.endswith(f"_{h}") for h in hidden):
            continue
        out[str(key)] = public(value) if isinstance(value, Mapping) else value
    return out
