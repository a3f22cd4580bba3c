"""Pinning checkpoints: which one is meant, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune.artifacts import checkpoint
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.run import pins
from tests.run.support import flip, prepared, save


def test_pinned_checkpoints_survive_rotation(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    for step in (10, 20, 30, 40):
        save(run, step)
    assert pins.pin(run, 10) == [10]
    assert pins.pin(run) == [10, 40]
    checkpoint.rotate(run.checkpoints, keep=2, best=None, pinned=checkpoint.pinned(run.path))
    assert checkpoint.steps(run.checkpoints) == [10, 30, 40]
    assert pins.unpin(run, 10) == [40]
    assert pins.unpin(run) == []


def test_the_newest_complete_one(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    with pytest.raises(UsageError, match="run parent has no complete checkpoint"):
        pins.pin(run)
    save(run, 10)
    flip(save(run, 20) / "optimizer.pt")
    assert pins.pin(run) == [10]
    with pytest.raises(StorageError, match="checkpoint-20 of run parent is not complete: optimizer"):
        pins.pin(run, 20)


def test_errors_name_the_steps(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    save(run, 10), save(run, 20)
    with pytest.raises(UsageError) as caught:
        pins.pin(run, 15)
    assert str(caught.value).splitlines() == [
        "error: run parent has no checkpoint of step 15",
        "  hint: it has checkpoints of the steps 10, 20",
    ]
    with pytest.raises(UsageError, match="step 20 of run parent is not pinned"):
        pins.unpin(run, 20)


def test_damaged_pins_are_no_pins(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    save(run, 10)
    (run.path / "pins.json").write_text("{torn")
    assert pins.pin(run) == [10]
