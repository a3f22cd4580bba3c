"""What is known about rows: the length that a usual batch is padded to."""

from __future__ import annotations

from nothing_tune.plan.rows import Rows


def test_a_usual_batch() -> None:
    rows = Rows(train=100, longest=1024, lengths=((1, 101, 90), (101, 2001, 10)))
    assert rows.typical(1, 1024, packed=False) == 148
    assert rows.typical(8, 1024, packed=False) == 605  # 43 % of the batches hold no long row
    assert rows.typical(8, 1024, packed=True) == 1024
    assert Rows(longest=1024).typical(8, 1024, packed=False) is None


def test_rows_of_like_length_come_together() -> None:
    lengths = ((1, 101, 90), (101, 2001, 10))
    rows = Rows(train=100, longest=1024, lengths=lengths)
    assert rows.typical(8, 1024, packed=False, grouped=True) == rows.typical(1, 1024, packed=False)
    counted = Rows(train=100, tokens=15_000, longest=1024, lengths=lengths)
    assert counted.typical(8, 1024, packed=False, grouped=True) == 150
    assert counted.typical(8, 1024, packed=True, grouped=True) == 1024
