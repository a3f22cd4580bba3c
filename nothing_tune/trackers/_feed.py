"""From events to a sink: which numbers an event holds, and how far a run's events were handed over, each once.

A run that is resumed trains the steps after its checkpoint again and logs them again; they are handed over once. What is
sent while the run trains and what is sent later goes through the same `Feed`, and so is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nothing_tune.trackers import Sink

EXTRA = ("tokens_per_s", "num_tokens", "memory_gib", "eta_s")
"""Fields of a `log` event that are metrics too."""
KINDS = ("log", "eval")


@dataclass(frozen=True)
class Position:
    """How far events were handed over.

    Attributes:
        offset: Bytes of events.jsonl that were gone through.
        steps: The newest step that was handed over of each type of event, `log` and `eval`.
    """

    offset: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any) -> Position:
        """The position in plain data; the beginning where there is none."""
        data = data if isinstance(data, Mapping) else {}
        return cls(int(data.get("offset") or 0), {k: int(v) for k, v in (data.get("steps") or {}).items()})

    def to_json(self) -> dict[str, Any]:
        """The position as plain data."""
        return {"offset": self.offset, "steps": dict(self.steps)}

    def has(self, kind: str, step: int) -> bool:
        """Whether numbers of this type and step were handed over."""
        return step <= self.steps.get(kind, -1)


def numbers(event: Mapping[str, Any]) -> tuple[str, dict[str, float], int] | None:
    """`(type, metrics, step)` of an event that has numbers for a tracker; None of another.

    A metric that events.jsonl holds as null was not finite, and is NaN here.
    """
    kind, step, metrics = event.get("type"), event.get("step"), event.get("metrics")
    if kind not in KINDS or not isinstance(step, int) or not isinstance(metrics, Mapping):
        return None
    found = {k: math.nan if v is None else v for k, v in metrics.items()}
    found |= {k: event[k] for k in EXTRA if event.get(k) is not None}
    return kind, {k: v for k, v in found.items() if isinstance(v, int | float)}, step


def first_step(events: Iterable[tuple[Mapping[str, Any], int]], position: Position) -> int | None:
    """The step of the first event that is still to be handed over; None when there is none."""
    for event, _ in events:
        row = numbers(event)
        if row is not None and not position.has(row[0], row[2]):
            return row[2]
    return None


class Feed:
    """Hands events to a sink.

    Attributes:
        reached: How far this feed has got.
        sent: Events with numbers that it has handed over.
    """

    def __init__(self, sink: Sink, begin: Position) -> None:
        self._sink = sink
        self._begin = begin
        self._step: tuple[int, Position] | None = None
        self.reached = begin
        self.sent = 0

    def take(self, event: Mapping[str, Any], behind: int) -> None:
        """Hands over one event; `behind` is the offset after it. Raises what the sink raises."""
        row, steps = numbers(event), self.reached.steps
        if row is not None and not self.reached.has(row[0], row[2]):
            kind, metrics, step = row
            if self._step is None or self._step[0] != step:
                self._step = step, self.reached
            self._sink.log(metrics, step)
            self.sent += 1
            steps = {**steps, kind: step}
        self.reached = Position(behind, steps)

    @property
    def settled(self) -> Position:
        """Where handing over must begin anew, should this process end here without `finish` of the sink."""
        if self._sink.settles == "at once":
            return self.reached
        if self._sink.settles == "by step":
            return self._step[1] if self._step else self._begin
        return self._begin
