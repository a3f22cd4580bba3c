"""SIGKILL at random instants, and the end of the process at every single write of a save."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.harness import METHODS, Place, complete, expected, problem, resumed, stop, tail, together
from tests.faults.storm import Storm, storm_until
from tests.faults.test_exactness import RANKS

SEED = int(os.environ.get("TUNE_STORM_SEED") or random.SystemRandom().randrange(10**6))
EVALUATED = {"training.eval_strategy": "steps", "training.eval_steps": 2, "checkpoint.best": True}


def test_a_short_kill_storm(place: Place) -> None:
    storm = storm_until(place, 8, SEED, latest_s=0.5, **{"training.max_steps": 16, "training.save_steps": 1})
    assert storm.kills >= 8


@pytest.mark.slow
def test_a_kill_storm_of_a_hundred(place: Place) -> None:
    def blow(number: int) -> Storm:
        own = replace(place, folder=place.folder / str(number))
        own.folder.mkdir()
        plan = {"training.max_steps": 60, "training.save_steps": 1 + number, **(EVALUATED if number else {})}
        return storm_until(own, 50, SEED + 1000 * number, **plan)

    storms = together(blow, (0, 1))
    assert sum(s.kills for s in storms) >= 100
    assert sum(s.in_save for s in storms) >= 30, storms


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_ranks_killed(place: Place, rank: int) -> None:
    digest, run = expected(place, "ranks", **RANKS), place.run("run", **RANKS)
    for nth in (1, 4, 3):
        assert place.zygote.train(run, {"point": "forward", "nth": nth, "do": "sigkill", "rank": rank}) == 5
        assert "SIGKILL" in problem(run)["what"]
    assert resumed(place, run) == digest


def writes(place: Place, ks: Iterable[int], **plan: Any) -> list[str]:
    """Ends the run at each of the `ks`-th writes from the beginning of its last save, and lets it go on.

    The writes are those of the save at step 4, its commit, the rotation, and the handover.

    Returns what went wrong. A `k` behind the last write ends nothing, and what is left of `ks` is passed over.
    """
    plan["training.max_steps"] = 4
    digest = expected(place, "writes", **plan)
    before = place.run("writes-before", **plan)
    assert place.zygote.train(before, stop(3)) == 75, tail(before)
    done: list[int] = []
    wrong: list[str] = []
    struck: list[str] = []

    def strike(k: int) -> None:
        if done:
            return
        run = place.run(f"writes-{k}", **plan)
        shutil.copytree(before.path, run.path, dirs_exist_ok=True)
        log = place.folder / f"{k}.writes"
        code = place.zygote.train(run, {"point": "save", "nth": 1, "do": "die-at-write", "k": k, "file": str(log)})
        there = complete(run)
        at = log.read_text().splitlines()[-1] if log.exists() else f"{k} ?"
        if code == 0:
            done.append(k)
        elif len(there) < len(complete(before)) or max(there) < 3:
            wrong.append(f"{at}: complete checkpoints {there}")
        elif resumed(place, run) != digest:
            wrong.append(f"{at}: another digest")
        else:
            struck.append(at)
        shutil.rmtree(run.path)

    together(strike, ks)
    print(f"ended at {len(struck)} writes of a save: {', '.join(struck)}")
    assert wrong or len(struck) >= 4
    return wrong


def test_ended_at_some_writes_of_a_save(place: Place) -> None:
    assert writes(place, range(1 + SEED % 13, 400, 13)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("method", "stride"), [("lora", 1), ("full", 3)])
def test_ended_at_every_write_of_a_save(place: Place, method: str, stride: int) -> None:
    plan = {**METHODS[method], **(EVALUATED if method == "full" else {})}
    assert writes(place, range(1 + SEED % stride, 400, stride), **plan) == []
