"""A kill storm: real SIGKILLs at random instants, many of them inside a save, until a run has ended in spite of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, checkpoint
from tests.faults.harness import Place, complete, finished, tail

STALLED = 12
"""Attempts in a row without a new complete checkpoint after which one attempt is left alone."""


@dataclass
class Storm:
    """What a storm did so far: kills, how many of them struck inside a save, and torn checkpoints met."""

    kills: int = 0
    in_save: int = 0
    attempts: int = 0
    runs: int = 0
    torn: int = 0


def inside(marks: Path) -> bool:
    """Whether the last call marked in a file had begun and not ended."""
    return marks.exists() and marks.read_bytes().endswith(b"E")


def a_kill(chance: random.Random, latest_s: float = 1.5) -> dict[str, Any]:
    """A SIGKILL at a random instant: up to `latest_s` seconds after training begins, or just after a save begins."""
    if chance.random() < 0.55:
        point = "commit" if chance.random() < 0.5 else "save"
        return {"point": point, "nth": chance.randint(1, 4), "do": "sigkill", "after_s": chance.uniform(1e-4, 0.02)}
    return {"point": "forward", "nth": 1, "do": "sigkill", "after_s": chance.uniform(0.05, latest_s)}


def weather(
    place: Place, name: str, digest: str, seed: int, kills: int, storm: Storm, latest_s: float, **plan: Any
) -> None:
    """Kills one run again and again until it is done or `storm` has `kills`; then lets it end, and compares its digest.

    Asserts as well that no complete checkpoint is ever lost: the newest one never becomes older.
    """
    chance = random.Random(seed)
    run = place.run(name, **plan)
    print(f"kill storm: run {name}, seed {seed}")
    newest, stalled = 0, 0
    while True:
        marks = [place.folder / f"{name}.{what}.marks" for what in ("save", "commit")]
        for path in marks:
            path.unlink(missing_ok=True)
        faults = [{"do": "mark", "around": w, "file": str(m)} for w, m in zip(("save", "commit"), marks, strict=True)]
        calm = storm.kills >= kills or stalled >= STALLED
        code = place.zygote.train(run, *faults, *([] if calm else [a_kill(chance, latest_s)]))
        storm.attempts += 1
        if code == 0:
            break
        assert not calm, f"seed {seed}: left alone, the run failed with {code}: {tail(run)}"
        killed = "SIGKILL" in str((run.result() or {}).get("error")) or code == -9
        assert killed, f"seed {seed}: exit {code}: {(run.result() or {}).get('error')} {tail(run)}"
        storm.kills += 1
        storm.in_save += any(map(inside, marks))
        steps = complete(run)
        assert max(steps, default=0) >= newest, f"seed {seed}: checkpoint {newest} is lost, there are {steps}"
        stalled = stalled + 1 if max(steps, default=0) == newest else 0
        newest = max(steps, default=0)
        storm.torn += len(checkpoint.steps(run.checkpoints)) - len(steps)
    assert finished(run) == digest, f"seed {seed}: another digest"
    storm.runs += 1


def storm_until(place: Place, kills: int, seed: int, latest_s: float = 1.5, **plan: Any) -> Storm:
    """Runs the storm over fresh runs until there were `kills`."""
    from tests.faults.harness import expected

    storm = Storm()
    digest = expected(place, f"storm-{seed}", **plan)
    while storm.kills < kills:
        weather(place, f"storm-{seed}-{storm.runs}", digest, seed + storm.runs, kills, storm, latest_s, **plan)
    print(storm)
    return storm


def last(run: Run) -> int:
    """Step of the newest complete checkpoint; 0 without one."""
    return max(complete(run), default=0)
