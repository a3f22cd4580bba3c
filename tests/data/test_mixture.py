"""Mixtures: how many rows of each source, which, and in what order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune.data.mixture import amounts, choose, told
from nothing_tune.data.sources import Source

CASES: list[tuple[list[int], list[float | None], list[int | None], list[int]]] = [
    ([10, 5], [None, None], [None, None], [10, 5]),
    ([10, 5], [None, None], [3, None], [3, 5]),
    ([10, 5], [None, None], [30, 5], [10, 5]),
    ([1000, 100], [1, 1], [None, None], [100, 100]),
    ([1000, 100], [3, 1], [None, None], [300, 100]),
    ([200, 100], [3, 1], [None, None], [200, 66]),
    ([1000, 100], [0.9, 0.1], [None, None], [900, 100]),
    ([1000, 1000], [2, 1], [100, None], [100, 50]),
    ([1000, 0], [2, 1], [None, None], [1000, 0]),
    ([0, 0], [2, 1], [None, None], [0, 0]),
    ([1000, 10], [1, 1000], [None, None], [1, 10]),
    ([5], [7], [None], [5]),
]


def made(weights: list[float | None], caps: list[int | None]) -> list[Source]:
    return [Source(f"{n}.jsonl", w, c) for n, (w, c) in enumerate(zip(weights, caps, strict=True))]


def test_amounts() -> None:
    for counts, weights, caps, wanted in CASES:
        assert amounts(counts, made(weights, caps)) == wanted, (counts, weights, caps)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(0.1, 10), st.none() | st.integers(1, 20)), min_size=1, max_size=4)
)
def test_laws(parts: list[tuple[int, float, int | None]]) -> None:
    counts = [n for n, _, _ in parts]
    sources = made([w for _, w, _ in parts], [c for _, _, c in parts])
    chosen = choose(counts, sources, 3)
    used = amounts(counts, sources)
    assert len(set(chosen)) == len(chosen) == sum(used)
    for number, (count, amount) in enumerate(zip(counts, used, strict=True)):
        mine = [row for source, row in chosen if source == number]
        assert mine == sorted(mine)
        assert len(mine) == amount
        assert all(0 <= row < min(count, sources[number].max_rows or count) for row in mine)
    assert chosen == choose(counts, sources, 3)
    for end in range(len(chosen)):
        for number, amount in enumerate(used):
            sofar = sum(source == number for source, _ in chosen[:end])
            assert abs(sofar - amount * end / len(chosen)) <= 2


def test_a_cap_keeps_the_first_rows_and_a_weight_most_of_the_old() -> None:
    assert choose([5, 2], made([None, None], [2, None])) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    before = {row for source, row in choose([1000, 100], made([1, 1], [None, None])) if source == 0}
    after = {row for source, row in choose([1100, 110], made([1, 1], [None, None])) if source == 0}
    assert len(before & after) > 90
    other = {row for source, row in choose([1000, 100], made([1, 1], [None, None]), 7) if source == 0}
    assert before != other


def test_told() -> None:
    assert told([1000, 100, 1], made([3, 1, 0.001], [None, 50, None])) == [
        "0.jsonl: 150 of 1,000 rows, 74.6% (weight 3)",
        "1.jsonl: 50 of 100 rows, 24.9% (weight 1, at most 50)",
        "2.jsonl: 1 row, 0.5% (weight 0.001)",
    ]
    assert told([2, 0], made([None, None], [None, None])) == ["0.jsonl: 2 rows, 100.0%", "1.jsonl: 0 rows, 0.0%"]
