"""Defaults of a first recipe: within PEFT Studio's ranges whatever is known, with a reason, and as the rules say."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune.recipe.defaults import GOALS, KNOBS, Facts, evaluation, knobs, logging, shown, steps
from nothing_tune.recipe.library import names
from nothing_tune.recipe.ranges import ADVISED


def chosen(facts: Facts, **given: Any) -> dict[str, Any]:
    """The values of all knobs that the method has, those in `given` as they are."""
    out: dict[str, Any] = {}
    for name, knob in knobs(facts.method).items():
        out[name] = given[name] if name in given else knob.default(facts, out).value
    return out


def some(**more: Any) -> Facts:
    """Facts of 2,000 conversations and a 3 B model."""
    known: dict[str, Any] = {"method": "qlora", "goal": "chat", "parameters_b": 3.2, "rows": 2000, "usual": 200.0}
    return Facts(**{**known, "long": 600.0, "context": 8192, "kind": "messages", **more})


@given(
    method=st.sampled_from(names("methods")),
    goal=st.sampled_from(list(GOALS)),
    size=st.none() | st.floats(0.001, 200),
    rows=st.none() | st.integers(1, 10_000_000),
    long=st.none() | st.floats(1, 100_000),
    context=st.none() | st.sampled_from([512, 4096, 131072]),
    room=st.none() | st.integers(0, 100_000),
)
@settings(max_examples=30, deadline=None)
def test_defaults_hold_the_ranges(
    method: str,
    goal: str,
    size: float | None,
    rows: int | None,
    long: float | None,
    context: int | None,
    room: int | None,
) -> None:
    facts = Facts(
        method, goal, size, rows, usual=long and long / 3, long=long, context=context,
        fits=None if room is None else lambda many, length: many * length <= room,
    )  # fmt: skip
    values: dict[str, Any] = {}
    for name, knob in knobs(method).items():
        default = knob.default(facts, values)
        values[name] = default.value
        assert default.why, name
        if not knob.flag:
            assert knob.range.holds(default.value), (name, default.value)
            assert not knob.whole or isinstance(default.value, int)
        assert shown(default.value)
    assert values["max_length"] <= (context or 16384)
    known = steps(facts, values)
    every, logs = evaluation(facts, values).value, logging(facts, values).value
    assert (known is None) == (every is None) == (rows is None)
    if known:
        assert 1 <= every <= max(1, known[0])
        assert logs is None or logs >= 1


def test_ranges_are_those_of_the_source() -> None:
    held = 0
    for knob in KNOBS.values():
        if knob.key in ADVISED:
            assert knob.range == ADVISED[knob.key][0], knob.key
            held += 1
    assert held == 7


def test_rules() -> None:
    assert chosen(some()) == {
        "max_length": 1024, "packing": False, "rank": 16, "alpha": 32, "dropout": 0.05, "lr": 2e-4, "epochs": 3,
        "batch": 4, "accumulation": 4, "warmup": 0.05,
    }  # fmt: skip
    few = chosen(some(rows=300))
    assert (few["rank"], few["alpha"], few["dropout"], few["batch"] * few["accumulation"]) == (8, 16, 0.1, 8)
    assert chosen(some(goal="style"))["rank"] == chosen(some(goal="style"))["alpha"] == 32
    assert [chosen(some(rows=n))["epochs"] for n in (1000, 13_482, 113_000)] == [3, 2, 1]
    assert [chosen(some(parameters_b=b))["lr"] for b in (0.005, 3, 13)] == [3e-3, 2e-4, 1e-4]
    assert [chosen(some(method=m))["lr"] for m in ("full", "ia3", "vera")] == [1e-5, 3e-3, 2e-3]
    assert chosen(some(method="pissa"))["dropout"] == 0.0
    assert (chosen(some(method="rslora"))["rank"], chosen(some(method="rslora"))["alpha"]) == (32, 16)
    assert "rank" not in chosen(some(method="full"))
    assert chosen(some(goal="completion", kind="text"))["packing"] is True
    assert chosen(some(goal="completion", usual=900.0))["packing"] is False
    assert chosen(some(), rank=64)["alpha"] == 64


def test_memory_decides_length_and_batch() -> None:
    def fits(rows: int, length: int) -> bool:
        return rows * length <= 2048

    tight = chosen(some(fits=fits))
    assert (tight["max_length"], tight["batch"], tight["accumulation"]) == (1024, 2, 8)
    long = chosen(some(long=3500.0, fits=fits))
    assert (long["max_length"], long["batch"], long["accumulation"]) == (2048, 1, 16)
    assert chosen(some(fits=lambda rows, length: None))["batch"] == 4


def test_steps_are_those_of_the_source() -> None:
    """Nothing-GPT: 13,482 training rows, 8 x 2, 2 epochs."""
    values = {"batch": 8, "accumulation": 2, "epochs": 2, "max_length": 1024, "packing": False}
    assert steps(some(rows=13_482, share=None), values) == (843, 1686)
    assert evaluation(some(rows=13_482, share=None), values).value == 200
