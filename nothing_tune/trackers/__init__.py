"""Trackers, one file each: the file's name is the tracker's name in `tracking.tracker`.

A tracker module has three functions: `check(settings, env)`, light, which lists what is missing before a run starts;
`unreachable(settings, env, timeout)`, which asks the network in bounded time; and
`start(settings, run_id, name, config, folder)`, which returns a `Sink`. None of them is called in a process that trains:
`feed` reads a run's events and hands them to a sink, so that a tracker can neither end a run nor slow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from nothing_tune.errors import Problem, UsageError

CONFIG_KEYS = ("name", "model", "data", "quantization", "peft", "training")
"""Parts of a plan's values that a tracker is told."""


class Sink(Protocol):
    """Where the metrics of one run go.

    Attributes:
        settles: When what was logged is sure to be there, should this process die: `at once`; `by step`, where all before
            the newest step is, and a sink started at that step replaces it; `at the end`, when `finish` has returned; what
            was logged before it is then logged again, and the next sink passes over what it has, or replaces it.
    """

    settles: str

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers of optimizer step `step`."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Records how the run ended: numbers and short texts."""

    def finish(self) -> None:
        """Writes out what is pending; nothing is logged afterwards."""


class Tracker(Protocol):
    """What a tracker module offers."""

    def check(self, settings: Mapping[str, Any], env: Mapping[str, str]) -> list[Problem]:
        """What is missing to use the tracker with the recipe's `tracking` settings; imports no heavy package."""

    def unreachable(self, settings: Mapping[str, Any], env: Mapping[str, str], timeout: float) -> str | None:
        """Why the tracker cannot be reached, known within about `timeout` seconds; None when it can, or needs no network."""

    def start(
        self, settings: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: Path
    ) -> Sink:
        """Begins, or goes on with, the run `run_id`, called `name`; files go below `folder`.

        `settings` are the recipe's, and `from_step`: the step that is logged first (None when that is not known), and
        `pid`: the process that trains.
        """


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


def name_of(plan: Mapping[str, Any]) -> str:
    """The tracker that a plan, as plan.json has it, names; `none` when it names none."""
    return str((plan.get("tracking") or {}).get("tracker") or "none")


def label_of(plan: Mapping[str, Any], run_id: str) -> str:
    """What a tracker calls the run: the recipe's `run_name`, else the run's id."""
    training, tracking = plan.get("training") or {}, plan.get("tracking") or {}
    return str(training.get("run_name") or tracking.get("run_name") or run_id)


def config_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a tracker is told of a plan: its values as the recipe has them, environment variables by name, no secrets."""
    values = plan.get("values") or {}
    return public({k: values.get(k) for k in CONFIG_KEYS if k in values})


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
