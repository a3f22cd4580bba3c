"""Committed checkpoints: what counts as complete, and what rotation spares."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune.artifacts import checkpoint


def write(folder: Path, step: int, commit: bool = True) -> Path:
    target = folder / f"checkpoint-{step}"
    (target / "inner").mkdir(parents=True)
    (target / "a.bin").write_bytes(b"weights" * step)
    (target / "inner" / "b.json").write_text("{}")
    if commit:
        checkpoint.commit(target, step=step, attempt=1, run="run-0001")
    return target


def test_the_newest_complete_one_is_found(tmp_path: Path) -> None:
    write(tmp_path, 2), write(tmp_path, 10)
    write(tmp_path, 12, commit=False)
    found, faults = checkpoint.newest(tmp_path)
    assert found == tmp_path / "checkpoint-10"
    assert faults == ["checkpoint-12 is passed over: it was never completed"]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "a.bin").unlink(), "a.bin is missing"),
        (lambda f: (f / "a.bin").write_bytes(b""), "a.bin has 0 bytes instead of 14"),
        (lambda f: (f / "a.bin").write_bytes(b"weightsWeights"), "a.bin is not what was written"),
        (lambda f: (f / "inner" / "b.json").write_text("[]"), "b.json is not what was written"),
        (lambda f: (f / "COMMIT.json").write_text('{"files"'), "COMMIT.json is damaged"),
        (lambda f: (f / "COMMIT.json").unlink(), "it was never completed"),
        (lambda f: (f / "COMMIT.json").write_text("[]"), "it was never completed"),
    ],
)
def test_every_kind_of_harm_is_noticed(tmp_path: Path, harm, words: str) -> None:  # type: ignore[no-untyped-def]
    folder = write(tmp_path, 2)
    assert checkpoint.fault(folder) is None
    harm(folder)
    assert words in (checkpoint.fault(folder) or "")
    assert checkpoint.newest(tmp_path)[0] is None


def test_rotation_spares_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        write(tmp_path, step)
    write(tmp_path, 6, commit=False)
    assert checkpoint.rotate(tmp_path, keep=2, best=2) == [1, 3]
    assert checkpoint.steps(tmp_path) == [2, 4, 5, 6]  # 6 may be the one that is being written


def test_nothing_is_deleted_without_a_complete_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1, commit=False)
    assert checkpoint.rotate(tmp_path, keep=1, best=None) == []
    assert checkpoint.newest(tmp_path / "missing") == (None, [])
