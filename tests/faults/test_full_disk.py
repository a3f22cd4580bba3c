"""A disk that is full, for real: the run stops with 74 or goes on, nothing committed is lost, and with room it ends exactly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from nothing_tune.artifacts import Run, checkpoint
from tests.faults.harness import Place, complete, expected, finished, problem, resumed, stop, tail
from tests.faults.mounts import Namespace

PLAN = {"training.save_steps": 1}


@pytest.fixture
def namespace(place: Place) -> Iterator[Namespace]:
    """A mount namespace, where the system allows one."""
    found = Namespace(place.zygote, place.folder)
    if found.reason:
        pytest.skip(found.reason)
    yield found
    found.close()


def size_kib(folder: object) -> int:
    """Size of all files in a folder on a disk with pages of 4 KiB."""
    from pathlib import Path

    return sum(-(-p.stat().st_size // 4096) * 4 for p in Path(str(folder)).rglob("*") if p.is_file())


def filled(place: Place, namespace: Namespace, name: str, kib: int, digest: str) -> tuple[int, list[int]]:
    """Trains on a disk of `kib` KiB, then on a large one; returns the first exit code and the checkpoints complete by then."""
    run = place.run(name, **PLAN)
    kept = place.folder / f"{name}.plan.json"
    shutil.copy2(run.path / "plan.json", kept)
    namespace.small_disk(run.path, kib)
    inside = Run(namespace.see(run.path))
    shutil.copy2(kept, inside.path / "plan.json")
    code = place.zygote.train(run, mounts=namespace.pid)
    steps = complete(inside)
    assert code in (0, 74), f"{kib} KiB: exit {code}: {tail(run)}"
    if code == 74:
        text = str((inside.result() or {}).get("error") or tail(run))
        assert "No space left on device" in text or "full" in text or "refused" in text, text
    namespace.small_disk(run.path, 65536, again=True)
    if code != 0:
        assert place.zygote.train(run, mounts=namespace.pid) == 0, tail(run)
        said_to_resume = [e["step"] for e, _ in inside.events() if e["type"] == "resume"]
        assert not steps or said_to_resume[-1] == steps[-1]
    assert finished(inside) == digest
    for line in (inside.path / "events.jsonl").read_bytes().splitlines():
        assert line.startswith(b"{"), line
    return code, steps


def checkpoint_kib(place: Place) -> tuple[int, int]:
    """Size of one checkpoint, and of all else that a run directory holds at the end."""
    run = place.run("sizes", **PLAN)
    assert place.zygote.train(run, stop(2)) == 75
    one = size_kib(run.checkpoints / f"checkpoint-{checkpoint.steps(run.checkpoints)[-1]}")
    return one, size_kib(run.path) - 2 * one


def test_a_full_disk(place: Place, namespace: Namespace) -> None:
    digest = expected(place, "full-disk", **PLAN)
    one, rest = checkpoint_kib(place)
    codes = [
        filled(place, namespace, f"disk-{i}", int(rest + share * one), digest)
        for i, share in enumerate((0.5, 1.4, 2.4))
    ]
    assert codes[0] == (74, [])
    assert codes[1][0] == 74
    assert codes[1][1], "the checkpoint that was complete is lost"


@pytest.mark.slow
def test_a_disk_that_is_full_anywhere(place: Place, namespace: Namespace) -> None:
    digest = expected(place, "full-disk", **PLAN)
    one, rest = checkpoint_kib(place)
    codes = [filled(place, namespace, f"disk-{i}", int(16 + i / 16 * (rest + 3.5 * one)), digest)[0] for i in range(17)]
    assert {0, 74} == set(codes)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["save", "commit"])
@pytest.mark.parametrize("nth", [1, 3])
def test_the_disk_refuses_in_a_save(place: Place, point: str, nth: int) -> None:
    digest, run = expected(place, "whole"), place.run("run")
    assert place.zygote.train(run, {"point": point, "nth": nth, "do": "disk-full"}) == 74, tail(run)
    assert "No space left on device" in problem(run)["what"]
    assert complete(run) == [2, 4][: nth - 1]
    assert resumed(place, run) == digest


def test_a_read_only_directory(place: Place, namespace: Namespace) -> None:
    digest, run = expected(place, "read-only"), place.run("run")
    assert place.zygote.train(run, stop(3)) == 75
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    namespace.read_only(run.path)
    assert place.zygote.train(run, mounts=namespace.pid) == 74, tail(run)
    assert "read-only" in tail(run).lower() or "Read-only file system" in tail(run)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert place.zygote.train(run) == 0
    assert finished(run) == digest
