"""Splits: the share is exact, groups stay whole, and what is appended moves nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune.data.rows import Row
from nothing_tune.data.splits import Splitter, check_columns
from nothing_tune.errors import UsageError

SHARES = st.sampled_from([0.01, 0.05, 0.1, 0.15, 0.3, 1 / 3, 0.5, 0.75, 0.9])
KEYS = st.lists(st.sampled_from(["A1", "A2", "B1", None]), max_size=120)


def rows(keys: list[Any], file: int = 0, name: str = "rows.jsonl", column: str = "level") -> list[Row]:
    return [
        Row({"text": str(n), **({} if key is None else {column: key})}, file, n, 0, name)
        for n, key in enumerate(keys, 1)
    ]


def sides(found: list[Row], *wanted: Any) -> list[str]:
    splitter = Splitter(*wanted)
    return [splitter.side(row) for row in found]


@settings(max_examples=50, deadline=None)
@given(SHARES, st.integers(0, 99), KEYS, KEYS, st.booleans(), st.booleans())
def test_appending_moves_nothing(
    share: float, seed: int, first: list[Any], more: list[Any], group: bool, stratify: bool
) -> None:
    wanted = (share, seed, "level" if group else None, "level" if stratify else None)
    before = sides(rows(first), *wanted)
    assert sides(rows(first + more), *wanted)[: len(first)] == before
    assert sides(rows(first) + rows(more, 1, "more.jsonl"), *wanted)[: len(first)] == before


@settings(max_examples=50, deadline=None)
@given(SHARES, st.integers(0, 99), KEYS)
def test_the_share_of_every_stratum_is_exact_at_every_point(share: float, seed: int, keys: list[Any]) -> None:
    splitter = Splitter(share, seed, None, "level")
    read: Counter[Any] = Counter()
    held: Counter[Any] = Counter()
    for row in rows(keys):
        stratum = row.value.get("level")
        read[stratum] += 1
        held[stratum] += splitter.side(row) == "eval"
        assert abs(held[stratum] - share * read[stratum]) <= 1 + 1e-9
    if len(keys) >= 2:
        assert 0 < sum(held.values()) < len(keys)


@settings(max_examples=30, deadline=None)
@given(SHARES, st.integers(0, 99), st.lists(st.integers(0, 20), max_size=100))
def test_groups_are_never_torn(share: float, seed: int, keys: list[int]) -> None:
    found = rows(keys, column="author")
    side = sides(found, share, seed, "author")
    pairs = {(row.value["author"], which) for row, which in zip(found, side, strict=True)}
    assert len(pairs) == len(set(keys))
    if len(set(keys)) >= 2:
        assert {which for _, which in pairs} == {"train", "eval"}
        held = sum(which == "eval" for _, which in pairs)
        assert abs(held - share * len(pairs)) <= 1 + 1e-9


def test_the_number_of_rows() -> None:
    for count in (10, 1000, 12345):
        side = sides(rows([None] * count), 0.1)
        assert side.count("eval") in (count // 10, count // 10 + 1)
    assert sides(rows([None] * 100), 0.0) == ["train"] * 100
    assert Counter(sides(rows([None] * 1000), 0.999))["train"] == 1
    with pytest.raises(ValueError, match=r"a share is from 0 up to 1, this is 1\.0"):
        Splitter(1.0)


def test_a_row_without_the_key_is_its_own_group() -> None:
    assert sides(rows([None] * 20), 0.5, 1, "author").count("eval") == 10
    assert sides(rows([""] * 20, column="author"), 0.5, 1, "author").count("eval") == 10


def test_columns_that_no_row_has() -> None:
    some = [{"text": "x", "author": "a"}, {"text": "y", "level": ""}]
    check_columns(some, "author", None)
    check_columns(some, None, None)
    check_columns([], "nobody", "nobody")
    with pytest.raises(UsageError) as caught:
        check_columns(some, "auther", "level")
    assert [(p.what, p.key, p.hint) for p in caught.value.problems] == [
        (
            "data.group_by: no row that was looked at has the column 'auther'",
            "data.group_by",
            "did you mean author? the columns are text, author, level",
        ),
        (
            "data.stratify_by: no row that was looked at has anything in the column 'level'",
            "data.stratify_by",
            "the columns are text, author, level",
        ),
    ]


def test_many_small_files_and_other_seeds() -> None:
    """Of 2000 files with one row each about a tenth is held out, and each seed holds out others."""
    found = [Row({"text": "x"}, n, 1, 0, f"part-{n:04}.jsonl") for n in range(2000)]
    by_seed = [sides(found, 0.1, seed) for seed in (1, 2)]
    assert all(150 < side.count("eval") < 250 for side in by_seed)
    assert by_seed[0] != by_seed[1]
    assert sides(rows([None] * 100), 0.1, 1) != sides(rows([None] * 100), 0.1, 2)


def test_the_same_in_every_process() -> None:
    code = (
        "from nothing_tune.data.splits import Splitter\n"
        "from nothing_tune.data.rows import Row\n"
        "s = Splitter(0.2, 7, 'author', 'level')\n"
        "print(''.join(s.side(Row({'level': n % 3, 'author': str(n % 11)}, n // 40, n, 0, f'f{n // 40}'))[0]"
        " for n in range(80)))\n"
    )
    made = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": str(n)})
        for n in (1, 2)
    ]
    splitter = Splitter(0.2, 7, "author", "level")
    here = "".join(
        splitter.side(Row({"level": n % 3, "author": str(n % 11)}, n // 40, n, 0, f"f{n // 40}"))[0] for n in range(80)
    )
    assert [one.stdout.strip() for one in made] == [here, here], made[0].stderr
