"""SIGKILL at random instants, and the end of the process at every single write of a save."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.harness import METHODS, Place, complete, expected, resumed, stop, tail, together
from tests.faults.storm import Storm, storm_until

SEED = int(os.environ.get("TUNE_STORM_SEED") or random.SystemRandom().randrange(10**6))
EVALUATED = {"training.eval_strategy": "steps", "training.eval_steps": 2, "checkpoint.best": True}


def test_a_short_kill_storm(place: Place) -> None:
    storm = storm_until(place, 8, SEED, **{"training.max_steps": 24, "training.save_steps": 1})
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


def writes(place: Place, name: str, ks: Iterable[int], **plan: Any) -> tuple[int, list[str]]:
    """Ends the run at each of the `ks`-th writes that follow the beginning of the save at step 4, and lets it go on.

    Returns the number of those that struck, and what went wrong.
    """
    digest = expected(place, name, **plan)
    before = place.run(f"{name}-before", **plan)
    assert place.zygote.train(before, stop(3)) == 75, tail(before)
    wrong: list[str] = []

    def strike(k: int) -> bool:
        run = place.run(f"{name}-{k}", **plan)
        shutil.copytree(before.path, run.path, dirs_exist_ok=True)
        log = place.folder / f"{name}-{k}.writes"
        arm = {"point": "save", "nth": 1, "do": "die-at-write", "k": k, "file": str(log)}
        code = place.zygote.train(run, arm)
        there = complete(run)
        if code == 0:
            shutil.rmtree(run.path)
            return False
        at = log.read_text().splitlines()[-1] if log.exists() else "?"
        if not there or max(there) < 3 or len(there) < (2 if len(complete(before)) > 1 else 1):
            wrong.append(f"{at}: complete checkpoints {there}")
        elif resumed(place, run) != digest:
            wrong.append(f"{at}: another digest")
        shutil.rmtree(run.path)
        return True

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(strike, ks)), wrong


def test_ended_at_some_writes_of_a_save(place: Place) -> None:
    struck, wrong = writes(place, "writes", range(2 + SEED % 9, 90, 9), **{"training.max_steps": 5})
    assert wrong == []
    assert struck >= 5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_ended_at_every_write_of_a_save(place: Place, method: str) -> None:
    plan = {**METHODS[method], **(EVALUATED if method == "full" else {}), "training.max_steps": 5}
    ended, wrong, k = 0, [], 1
    while True:
        struck, bad = writes(place, f"writes-{k}", range(k, k + 24), **plan)
        wrong += bad
        ended += struck
        if struck < 24:
            break
        k += 24
    assert wrong == []
    assert ended >= 30
