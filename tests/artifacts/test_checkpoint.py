"""Committed checkpoints: what counts as complete, what is set aside, and what rotation spares."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from nothing_tune.artifacts import checkpoint
from nothing_tune.errors import Busy, StorageError


def write(folder: Path, step: int, commit: bool = True) -> Path:
    target = folder / f"checkpoint-{step}"
    (target / "inner").mkdir(parents=True)
    (target / "a.bin").write_bytes(b"weights" * step)
    (target / "inner" / "b.json").write_text("{}")
    if commit:
        checkpoint.commit(target, step=step, attempt=1, run="run-0001", settings={"training.seed": 42})
    return target


def test_the_newest_complete_one_is_found(tmp_path: Path) -> None:
    write(tmp_path, 2), write(tmp_path, 10)
    torn = write(tmp_path, 12, commit=False)
    found, faults = checkpoint.newest(tmp_path)
    assert found == tmp_path / "checkpoint-10"
    assert faults == [(torn, "it was never completed")]
    assert checkpoint.newest(tmp_path / "missing") == (None, [])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "a.bin").unlink(), "a.bin is missing"),
        (lambda f: (f / "a.bin").write_bytes(b""), "a.bin has 0 bytes instead of 14"),
        (lambda f: (f / "a.bin").write_bytes(b"weightsWeights"), "a.bin is not what was written"),
        (lambda f: (f / "inner" / "b.json").write_text("[]"), "inner/b.json is not what was written"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin does not belong to it"),
        (lambda f: (f / "COMMIT.json").write_text('{"files"'), "COMMIT.json is damaged"),
        (lambda f: (f / "COMMIT.json").write_bytes(b"\xff\xfe"), "COMMIT.json is damaged"),
        (lambda f: (f / "COMMIT.json").unlink(), "it was never completed"),
        (lambda f: (f / "COMMIT.json").write_text("[]"), "COMMIT.json is damaged"),
        (lambda f: f.rename(f.with_name("checkpoint-3")), "COMMIT.json is of step 2"),
    ],
)
def test_every_kind_of_harm_is_noticed(tmp_path: Path, harm, words: str) -> None:  # type: ignore[no-untyped-def]
    folder = write(tmp_path, 2)
    assert checkpoint.fault(folder) is None
    harm(folder)
    [there] = tmp_path.iterdir()
    assert checkpoint.fault(there) == words
    assert checkpoint.newest(tmp_path)[0] is None


def test_no_flipped_bit_of_the_manifest_is_overlooked(tmp_path: Path) -> None:
    path = write(tmp_path, 2) / "COMMIT.json"
    whole, chance = path.read_bytes(), random.Random(4)
    manifest = json.loads(whole)
    found = 0
    for _ in range(400):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        if checkpoint.fault(path.parent) is None:  # then it still says the same, white space for instance
            assert json.loads(data) == manifest
        else:
            found += 1
    assert found > 300


def test_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    manifest = json.loads((folder / "COMMIT.json").read_text())
    (folder / "COMMIT.json").write_text(json.dumps({**manifest, "schema": 3}))
    assert checkpoint.fault(folder) == "it was written by a newer nothing-tune (schema 3)"


def test_the_fence_keeps_the_commit_from_being_written(tmp_path: Path) -> None:
    folder = write(tmp_path, 2, commit=False)

    def fence() -> None:
        raise Busy("taken over")

    with pytest.raises(Busy):
        checkpoint.commit(folder, step=2, attempt=1, run="run-0001", fence=fence)
    assert checkpoint.fault(folder) == "it was never completed"


def test_what_is_torn_is_set_aside_under_a_name_of_its_own(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        torn = write(tmp_path, 4, commit=False)
        names.append(checkpoint.set_aside(torn, 2).name)
    assert names == ["torn-4-a2", "torn-4-a2-2", "torn-4-a2-3"]
    assert checkpoint.steps(tmp_path) == []
    assert sorted(checkpoint.torn(tmp_path)) == sorted(names)


def test_rotation_spares_the_newest_the_best_and_the_pinned(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5, 6, 7):
        write(tmp_path, step)
    write(tmp_path, 8, commit=False)
    for age, name in enumerate(("torn-1-a1", "torn-2-a1", "torn-3-a2")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (age, age))
    removed = checkpoint.rotate(tmp_path, keep=1, best=2, pinned=[4])
    assert removed == ["checkpoint-1", "checkpoint-3", "checkpoint-5", "torn-1-a1", "torn-2-a1"]
    assert checkpoint.steps(tmp_path) == [2, 4, 6, 7, 8]  # never fewer than two; 8 may be the one that is being written
    assert checkpoint.torn(tmp_path) == ["torn-3-a2"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_nothing_is_deleted_without_a_complete_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1, commit=False)
    assert checkpoint.rotate(tmp_path, keep=1, best=None) == []


@pytest.mark.parametrize("moment", ["moved", "half written", "committed", "removal begun"])
def test_a_checkpoint_that_is_written_again_is_never_lost(tmp_path: Path, moment: str) -> None:
    folder = write(tmp_path, 4)
    before = checkpoint.read(folder)
    checkpoint.make_way(folder)
    assert not folder.exists()
    if moment != "moved":
        write(tmp_path, 4, commit=moment in ("committed", "removal begun"))
    if moment == "removal begun":
        write(tmp_path, 3).rename(tmp_path / ".removed-checkpoint-3")
    checkpoint.recover(tmp_path, attempt=2)
    found, faults = checkpoint.newest(tmp_path)
    assert found == folder
    assert faults == []
    assert checkpoint.read(folder) == before
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"checkpoint-4", "torn-4-a2"} if moment == "half written" else left == {"checkpoint-4"}


def test_a_damaged_one_makes_way_for_good(tmp_path: Path) -> None:
    folder = write(tmp_path, 4, commit=False)
    checkpoint.make_way(folder)
    assert list(tmp_path.iterdir()) == []


def test_another_run_takes_a_checkpoint_over(tmp_path: Path) -> None:
    source = write(tmp_path / "parent", 4)
    target = tmp_path / "child" / "checkpoint-4"
    forked = {"run": "run-0001", "step": 4, "changed": {"training.learning_rate": [1e-3, 1e-4]}}
    checkpoint.adopt(source, target, run="run-0002", settings={"training.learning_rate": 1e-4}, forked=forked)
    assert checkpoint.fault(target) is None
    manifest = checkpoint.read(target)
    assert (manifest["run"], manifest["step"], manifest["forked"]) == ("run-0002", 4, forked)
    assert manifest["settings"] == {"training.learning_rate": 1e-4}
    assert checkpoint.read(source)["run"] == "run-0001"
    (source / "a.bin").write_bytes(b"")
    with pytest.raises(StorageError, match=r"checkpoint-4 cannot be taken over: a.bin has 0 bytes instead of 28"):
        checkpoint.adopt(source, tmp_path / "x" / "checkpoint-4", run="run-0003", settings={}, forked=forked)


def test_pins_are_read_whatever_is_in_the_file(tmp_path: Path) -> None:
    assert checkpoint.pinned(tmp_path) == []
    for text, steps in (
        ('{"steps": [3, 5]}', [3, 5]),
        ("{", []),
        ("[1]", []),
        ('{"steps": "3"}', []),
        ('{"steps": ["3", 4]}', [4]),
    ):
        (tmp_path / "pins.json").write_text(text)
        assert checkpoint.pinned(tmp_path) == steps
