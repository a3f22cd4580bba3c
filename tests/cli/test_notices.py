"""What a run says fits the terminal, with short paths."""

from __future__ import annotations

from pathlib import Path

from nothing_tune.cli import notices
from nothing_tune.cli.console import Ink
from nothing_tune.errors import Place, Problem


def test_what_fits_stays_on_one_line(tmp_path: Path) -> None:
    """`apart` makes `tmp_path` the current folder."""
    assert notices.lines("warning:", f"{tmp_path}/a.jsonl:3 is cut", "raise it", 80, Ink(False)) == [
        "warning: a.jsonl:3 is cut; raise it"
    ]
    assert notices.lines("", "data: 3 rows\x1b[31m", "", 80, Ink(False)) == ["data: 3 rows[31m"]


def test_what_does_not_fit_is_wrapped(tmp_path: Path) -> None:
    what = f"2 rows say the same as others: {tmp_path}/rows.jsonl:5, {tmp_path}/rows.jsonl:17"
    hint = f"keep them with data.dedupe=none, or mend {tmp_path}/rows.jsonl"
    assert notices.lines("warning:", what, hint, 40, Ink(False)) == [
        "warning: 2 rows say the same as others:",
        "  rows.jsonl:5, rows.jsonl:17",
        "  hint: keep them with data.dedupe=none,",
        "        or mend rows.jsonl",
    ]
    coloured = notices.lines("warning:", what, hint, 40, Ink(True))
    assert coloured[0] == "\x1b[33mwarning:\x1b[0m 2 rows say the same as others:"
    assert coloured[2] == "\x1b[2m  hint: \x1b[0mkeep them with data.dedupe=none,"


def test_a_problem_with_short_paths(tmp_path: Path) -> None:
    place = Place(f"{tmp_path}/a.yaml", 1, 2)
    long = Problem(f"{tmp_path}/a.jsonl is empty", "data.train", place, "layer", f"mend {tmp_path}/a.jsonl")
    assert notices.near(long) == Problem("a.jsonl is empty", "data.train", place, "layer", "mend a.jsonl")
