"""`make storm`: hurts runs at random for as long as it is let, and stops at the first one that does not end as it should.

    python scripts/storm.py                    until Ctrl-C
    python scripts/storm.py --hours 2
    python scripts/storm.py --seed 4711        one round again, the one whose number was printed

Each round trains one run: a random method, with dropout, packing, evaluation or two ranks as chance has it. Attempt after
attempt is hurt in a random way (killed, stopped, its checkpoints damaged, its disk full) until the run is done. The round
passes when the run hands over the very adapter of an undisturbed run and no complete checkpoint was ever lost.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from nothing_tune.artifacts import Run, checkpoint
from tests.faults.harness import METHODS, Place, Zygote, complete, expected, finished, problem, tail
from tests.faults.storm import a_kill
from tests.faults.test_damage import DAMAGES
from tests.faults.test_exactness import RANKS

HURTS = ("kill", "kill", "kill", "write", "write", "stop", "stop", "disk full", "supervisor")
MOST = 25
"""Attempts of one run that are hurt; the next one is left alone."""
DAMAGED = 0.3
"""Share of the attempts that find the newest checkpoint damaged."""
WRITES = 90
"""About as many calls that change the disk as a save makes."""


def main() -> int:
    """Runs rounds until the time is over or one fails; returns 1 in that case."""
    parser = argparse.ArgumentParser(description="hurt runs at random, for hours")
    parser.add_argument("--hours", type=float, default=float("inf"), help="how long; until Ctrl-C when left out")
    parser.add_argument("--seed", type=int, help="one round only, the one with this seed")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nothing-tune-storm-"))
    print("loading the libraries")
    zygote = Zygote()
    place = Place.make(zygote, folder)
    end, rounds, hurts = time.monotonic() + options.hours * 3600, 0, Counter[str]()
    digests: dict[str, str] = {}
    kept = False
    try:
        while time.monotonic() < end:
            seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
            why = one_round(place, seed, hurts, digests)
            if why:
                kept = True
                print(f"FAILED, seed {seed}: {why}\nthe run is kept in {folder}; again: scripts/storm.py --seed {seed}")
                return 1
            rounds += 1
            if options.seed is not None:
                break
    except KeyboardInterrupt:
        print()
    finally:
        zygote.close()
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{rounds} rounds passed; hurt: {', '.join(f'{n} x {what}' for what, n in hurts.most_common())}")
    return 0


def one_round(place: Place, seed: int, hurts: Counter[str], digests: dict[str, str]) -> str | None:
    """One run through its storm; why it failed, or None."""
    chance = random.Random(seed)
    name, plan = a_plan(chance)
    print(f"round {seed}: {name}", end="", flush=True)
    if name not in digests:
        digests[name] = expected(place, f"whole-{seed}", **plan)
    run = place.run(f"round-{seed}", **plan)
    newest = attempts = 0
    here: Counter[str] = Counter()
    while True:
        hurt = chance.choice(HURTS) if attempts < MOST else "nothing"
        here[hurt] += 1
        # What may be lost is the newest; with one alone there would be nothing to fall back on.
        if chance.random() < DAMAGED and len(complete(run)) > 1:
            here["damage"] += 1
            damage(run, chance)
            newest = max(complete(run))
        code = attempt(place, run, hurt, chance)
        attempts += 1
        if code == 0:
            break
        steps = complete(run)
        if max(steps, default=0) < newest:
            return f"checkpoint {newest} is lost, there are {steps}; attempt {attempts}, {hurt}"
        newest = max(steps, default=0)
        if code not in expected_codes(hurt):
            return f"exit {code} after {hurt} in attempt {attempts}: {problem(run)['what']}\n{tail(run)}"
    if finished(run) != digests[name]:
        return f"another digest after {attempts} attempts"
    hurts += here
    print(f", {attempts} attempts, {', '.join(f'{n} x {what}' for what, n in here.items())}")
    shutil.rmtree(run.path)
    (run.path.parent / f"{run.path.name}.log").unlink(missing_ok=True)
    return None


def a_plan(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A random plan, and its name."""
    method = chance.choice(list(METHODS))
    words, plan = [method], {**METHODS[method], "training.max_steps": 30, "training.save_steps": 1}
    if chance.random() < 0.3:
        words.append("packed")
        plan |= {"training.packing": True, "training.max_length": 48}
    if chance.random() < 0.4:
        words.append("evaluated")
        plan |= {"training.eval_strategy": "steps", "training.eval_steps": 3, "checkpoint.best": True}
    if chance.random() < 0.3:
        words.append("sparse")
        plan |= {"training.save_steps": 3, "training.logging_steps": 2}
    if chance.random() < 0.25:
        words.append("two ranks")
        plan |= RANKS
    return " ".join(words), plan


def attempt(place: Place, run: Run, hurt: str, chance: random.Random) -> int:
    """One attempt, hurt as `hurt` says; the supervisor's exit code."""
    rank = chance.randrange(2) if run.plan()["world_size"] == 2 else 0
    if hurt == "kill":
        fault = a_kill(chance)
        return place.zygote.train(run, {**fault, "rank": 0 if fault["point"] == "commit" else rank})
    if hurt == "write":
        k = chance.randint(1, WRITES)
        return place.zygote.train(run, {"point": "save", "nth": chance.randint(1, 3), "do": "die-at-write", "k": k})
    if hurt == "stop":
        point = chance.choice(["data", "load", "tokenise", "forward", "forward", "forward", "save"])
        fault = {"point": point, "nth": 1 if point in ("data", "load", "tokenise") else chance.randint(1, 8)}
        to = chance.choice(["supervisor", "worker"])
        return place.zygote.train(run, {**fault, "do": "signal", "number": signal.SIGTERM, "to": to, "rank": rank})
    if hurt == "disk full":
        return place.zygote.train(run, {"point": "save", "nth": chance.randint(1, 4), "do": "disk-full"})
    if hurt == "supervisor":
        child = place.zygote.attempt(run)
        child.ended.wait(chance.uniform(0.05, 2.0))
        if child.pid and not child.ended.is_set():
            os.kill(child.pid, signal.SIGKILL)
        code = child.wait()
        wait_until_free(run)
        return code
    return place.zygote.train(run)


def wait_until_free(run: Run) -> None:
    """Waits until the workers of a supervisor that was killed have ended: they notice, save and leave."""
    import fcntl

    end = time.monotonic() + 120
    while (run.path / "run.lock").exists():
        with open(run.path / "run.lock", "rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
                continue
            return


def damage(run: Run, chance: random.Random) -> None:
    """Damages a random file of the newest complete checkpoint."""
    folder = run.checkpoints / f"checkpoint-{max(complete(run))}"
    path = chance.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    DAMAGES[chance.choice(list(DAMAGES))](path)
    if checkpoint.fault(folder) is None:
        raise AssertionError(f"damage to {path} was not found")


def expected_codes(hurt: str) -> set[int]:
    """Exit codes that an attempt may end with, other than 0."""
    return {
        "kill": {5}, "write": {5}, "stop": {75}, "disk full": {74}, "supervisor": {-9}, "nothing": set(),
    }[hurt]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
