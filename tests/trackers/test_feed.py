"""What of an event is handed to a tracker, and from where handing over goes on."""

from __future__ import annotations

from typing import Any

import pytest

from nothing_tune.trackers._feed import Feed, Position, first_step, numbers


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self, settles: str = "at once") -> None:
        self.settles = settles
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Any, step: int) -> None:
        self.logged.append((step, dict(metrics)))

    def summary(self, values: Any) -> None:
        pass

    def finish(self) -> None:
        pass


def log(step: int, kind: str = "log", **metrics: Any) -> dict[str, Any]:
    return {"type": kind, "step": step, "metrics": metrics or {"loss": float(step)}}


def test_an_event_as_numbers() -> None:
    event = {**log(3, loss=1.5, lr=None, name="x"), "tokens_per_s": 10.0, "eta_s": None, "time": 1.0}
    kind, metrics, step = numbers(event)  # type: ignore[misc]
    assert (kind, step) == ("log", 3)
    assert str(metrics) == "{'loss': 1.5, 'lr': nan, 'tokens_per_s': 10.0}"
    assert numbers({"type": "warning", "what": "x"}) is None
    assert numbers({"type": "log", "step": None, "metrics": {}}) is None
    assert numbers({"type": "log", "step": 1}) is None


def test_steps_that_were_trained_again_are_handed_over_once() -> None:
    sink = Kept()
    feed = Feed(sink, Position())
    lines = [log(1), log(2), log(2, "eval"), log(3), {"type": "resume", "step": 2}, log(3), log(4), log(4, "eval")]
    for number, event in enumerate(lines):
        feed.take(event, number + 1)
    assert [step for step, _ in sink.logged] == [1, 2, 2, 3, 4, 4]
    assert feed.reached == Position(8, {"log": 4, "eval": 4})
    assert feed.sent == 6
    assert Position.from_json(feed.reached.to_json()) == feed.reached


@pytest.mark.parametrize(
    ("settles", "settled"),
    [
        ("at once", Position(3, {"log": 2, "eval": 2})),
        ("by step", Position(1, {"log": 1})),
        ("at the end", Position()),
    ],
)
def test_where_handing_over_begins_anew(settles: str, settled: Position) -> None:
    feed = Feed(Kept(settles), Position())
    assert feed.settled == Position()
    for number, event in enumerate([log(1), log(2), log(2, "eval")]):
        feed.take(event, number + 1)
    assert feed.settled == settled


def test_the_first_step_that_is_missing() -> None:
    lines = [({"type": "phase"}, 1), (log(1), 2), (log(2), 3)]
    assert first_step(lines, Position()) == 1
    assert first_step(lines, Position(0, {"log": 1})) == 2
    assert first_step(lines, Position(0, {"log": 2})) is None
