"""Checkpoints that rot: every damage to a file is found, and never trained on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run, checkpoint
from tests.faults.harness import METHODS, Place, expected, files, finished, said, stop, tail, together
from tests.faults.test_kills import SEED


def truncate(path: Path) -> None:
    with open(path, "r+b") as handle:
        handle.truncate(path.stat().st_size // 2)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, chance: random.Random | None = None) -> None:
    data = bytearray(path.read_bytes())
    chance = chance or random.Random(path.name)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "zeroed": zero,
    "emptied": empty,
    "flipped": flip,
    "removed": remove,
}


def stopped(place: Place, name: str, **plan: object) -> Run:
    """A run stopped at step 5, with checkpoints 4 and 5."""
    run = place.run(name, **plan)
    assert place.zygote.train(run, stop(5)) == 75, tail(run)
    assert checkpoint.steps(run.checkpoints) == [4, 5]
    return run


def copy(run: Run, name: str) -> Run:
    """A copy of a run directory beside it."""
    other = Run(run.path.parent / name)
    shutil.rmtree(other.path, ignore_errors=True)
    shutil.copytree(run.path, other.path)
    return other


def test_every_damage_is_found(place: Place) -> None:
    run = stopped(place, "run")
    folder = run.checkpoints / "checkpoint-5"
    assert checkpoint.fault(folder) is None
    names = [p.relative_to(folder) for p in files(folder)]
    assert len(names) >= 8
    missed = []
    for name in names:
        for kind, damage in DAMAGES.items():
            kept = (folder / name).read_bytes()
            damage(folder / name)
            same = (folder / name).is_file() and (folder / name).read_bytes() == kept
            if not same and checkpoint.fault(folder) is None:
                missed.append(f"{name} {kind}")
            (folder / name).write_bytes(kept)
    assert missed == []
    assert checkpoint.fault(folder) is None


@pytest.mark.parametrize("count", [200, pytest.param(4000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_silent(place: Place, count: int) -> None:
    chance = random.Random(SEED)
    print(f"bit flips: seed {SEED}")
    silent = []
    for method in ("lora", "full"):
        run = stopped(place, f"run-{method}", **METHODS[method])
        folder = run.checkpoints / "checkpoint-5"
        paths = list(files(folder))
        manifest = json.loads((folder / checkpoint.COMMIT).read_text())
        for number in range(count // 2):
            path = chance.choice(paths) if number % 2 else chance.choices(paths, [p.stat().st_size for p in paths])[0]
            kept = path.read_bytes()
            at, bit = chance.randrange(len(kept)), chance.randrange(8)
            data = bytearray(kept)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            if checkpoint.fault(folder) is None and not harmless(path, manifest):
                silent.append(f"{method} {path.name} byte {at} bit {bit}")
            path.write_bytes(kept)
    assert silent == []


def harmless(path: Path, manifest: object) -> bool:
    """Whether a changed COMMIT.json still says the same, by 1e-5 having become 1E-5 for instance."""
    return path.name == checkpoint.COMMIT and json.loads(path.read_text()) == manifest


def falls_back(place: Place, run: Run, digest: str, name: Path, kind: str) -> str | None:
    """Why a run whose newest checkpoint is damaged does not go on at the one before; None when it does, and says so."""
    hurt = copy(run, f"{run.path.name}-{name.name}-{kind}")
    DAMAGES[kind](hurt.checkpoints / "checkpoint-5" / name)
    if place.zygote.train(hurt) != 0:
        return f"{name} {kind}: {said(hurt)} {tail(hurt)}"
    if finished(hurt) != digest:
        return f"{name} {kind}: another digest"
    if name.name not in said(hurt) and name.name != checkpoint.COMMIT:
        return f"{name} {kind}: the file is not named: {said(hurt)}"
    if "checkpoint-5" not in said(hurt):
        return f"{name} {kind}: the checkpoint is not named: {said(hurt)}"
    shutil.rmtree(hurt.path)
    return None


def cases(run: Run, kinds: list[str] | None = None) -> list[tuple[Path, str]]:
    """Each file of checkpoint 5 with each kind of damage, or with one kind in turn."""
    folder = run.checkpoints / "checkpoint-5"
    names = [p.relative_to(folder) for p in files(folder)]
    turns = list(DAMAGES)
    return [(n, k) for i, n in enumerate(names) for k in (kinds or [turns[i % len(turns)]])]


def test_a_damaged_checkpoint_is_passed_over(place: Place) -> None:
    digest, run = expected(place, "run"), stopped(place, "run")
    assert [f for f in together(lambda c: falls_back(place, run, digest, *c), cases(run)) if f] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_whatever_the_damage(place: Place, method: str) -> None:
    digest, run = expected(place, "run", **METHODS[method]), stopped(place, "run", **METHODS[method])
    every = cases(run, list(DAMAGES) if method == "lora" else ["truncated", "flipped"])
    assert [f for f in together(lambda c: falls_back(place, run, digest, *c), every) if f] == []


def test_without_any_whole_checkpoint_it_says_so(place: Place) -> None:
    digest, run = expected(place, "run"), stopped(place, "run")
    for step in (4, 5):
        flip(run.checkpoints / f"checkpoint-{step}" / "optimizer.pt")
    code = place.zygote.train(run)
    assert "optimizer.pt" in said(run)
    if code == 0:
        assert "starts anew" in said(run)
        assert finished(run) == digest
    else:
        assert code in (65, 74)
