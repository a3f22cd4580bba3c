"""SIGTERM and SIGINT in every phase of a run: it saves or has nothing to save, exits as it should, and goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run
from tests.faults.harness import ROOT, Place, complete, events, expected, finished, problem, resumed, tail, together
from tests.faults.test_exactness import RANKS

PLAN = {"training.eval_strategy": "steps", "training.eval_steps": 2}
PHASES: dict[str, dict[str, Any]] = {
    "data": {"point": "data", "nth": 1},
    "loading": {"point": "load", "nth": 1},
    "tokenising": {"point": "tokenise", "nth": 1, "when": "after"},
    "first step": {"point": "forward", "nth": 1},
    "mid-accumulation": {"point": "forward", "nth": 6},
    "end of a step": {"point": "step", "step": 5},
    "inside a save": {"point": "save", "nth": 1},
    "inside a commit": {"point": "commit", "nth": 1},
    "inside an evaluation": {"point": "evaluate", "nth": 1},
    "last step": {"point": "forward", "nth": 13},
    "handover": {"point": "handover", "nth": 1},
}
BEFORE_TRAINING = ("data", "loading", "tokenising")
SHORT = ("tokenising", "mid-accumulation", "inside a save", "inside an evaluation")


def interrupted(
    place: Place,
    name: str,
    phase: str,
    digest: str,
    rank: int,
    to: str,
    plan: dict[str, Any],
    number: int = signal.SIGTERM,
) -> str | None:
    """Why a signal in a phase did not end the run as it should, or why it did not go on exactly; None when all was well."""
    run = place.run(name, **plan)
    fault = {**PHASES[phase], "do": "signal", "number": number, "rank": rank, "to": to}
    code = place.zygote.train(run, fault)
    at = (run.result() or {}).get("step")
    wanted = 75 if number == signal.SIGTERM else 130
    if code not in (wanted, 0) or (code == 0 and phase not in ("last step", "handover")):
        return f"{name}: exit {code}: {(run.result() or {}).get('error')} {tail(run)}"
    if (
        code == wanted
        and phase not in (*BEFORE_TRAINING, "handover")
        and (not complete(run) or max(complete(run)) != at)
    ):
        return f"{name}: stopped at step {at} with checkpoints {complete(run)}"
    if code == 0:
        return None if finished(run) == digest else f"{name}: another digest"
    return None if resumed(place, run) == digest else f"{name}: another digest after it went on"


def all_of(place: Place, phases: Any, rank: int = 0, to: str = "supervisor", **plan: Any) -> list[str]:
    digest = expected(place, "whole", **PLAN, **plan)
    names = [(f"{phase.replace(' ', '-')}-{rank}-{to}", phase) for phase in phases]
    return [f for f in together(lambda n: interrupted(place, *n, digest, rank, to, {**PLAN, **plan}), names) if f]


def test_sigterm_in_some_phases(place: Place) -> None:
    assert all_of(place, SHORT) == []


@pytest.mark.slow
@pytest.mark.parametrize("to", ["supervisor", "worker"])
def test_sigterm_in_every_phase(place: Place, to: str) -> None:
    assert all_of(place, PHASES, to=to) == []


def test_sigterm_to_one_rank_only(place: Place) -> None:
    assert all_of(place, ["mid-accumulation"], rank=1, to="worker", **RANKS) == []


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "to"), [(0, "supervisor"), (0, "worker"), (1, "worker"), (-1, "worker")])
def test_two_ranks_in_every_phase(place: Place, rank: int, to: str) -> None:
    phases = dict(PHASES)
    if rank != 0:  # these happen in rank 0 alone
        phases.pop("inside a commit")
        phases.pop("handover")
    assert all_of(place, phases, rank, to, **RANKS) == []


@pytest.mark.slow
def test_sigint_is_the_user_who_stops(place: Place) -> None:
    digest = expected(place, "whole", **PLAN)
    for phase in ("loading", "mid-accumulation", "inside a save"):
        name = f"int-{phase.replace(' ', '-')}"
        assert interrupted(place, name, phase, digest, 0, "supervisor", PLAN, signal.SIGINT) is None


def hang(there: Path, go: Path) -> dict[str, Any]:
    """The run stands still in its fifth step: says so with one file, and goes on when there is the other."""
    return {"point": "forward", "nth": 9, "do": "wait", "there": str(there), "go": str(go)}


def test_a_second_signal_leaves_at_once(place: Place) -> None:
    digest, run = expected(place, "whole"), place.run("run")
    there, never = place.folder / "there", place.folder / "never"
    child = place.zygote.attempt(run, hang(there, never))
    wait_for(there.exists)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(60) not in (0, 99)
    assert "second signal" in problem(run)["what"]
    assert complete(run) == [2, 4]
    assert resumed(place, run) == digest


def test_a_worker_does_not_outlive_its_supervisor(place: Place) -> None:
    digest, run = expected(place, "whole"), place.run("run")
    there, go = place.folder / "there", place.folder / "go"
    child = place.zygote.attempt(run, hang(there, go))
    wait_for(there.exists)
    assert child.pid is not None
    worker = int(run.status()["worker"])
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    go.touch()
    wait_for(lambda: not os.path.exists(f"/proc/{worker}"))
    assert complete(run)[-1] == 5  # the step that it was in was finished, and saved
    assert resumed(place, run) == digest


@pytest.mark.slow
def test_sigterm_while_python_still_imports(place: Place) -> None:
    """The real command, started as a launcher starts it."""
    digest, run = expected(place, "whole"), place.run("run")
    process = start(run)
    wait_for(lambda: [e for e in events(run, "phase") if e["phase"] == "imports"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75
    assert start(run).wait(300) == 0
    assert finished(run) == digest


def start(run: Run) -> subprocess.Popen[bytes]:
    """`python -m nothing_tune.engine RUN_DIR`, with one thread as in the zygote."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(run.path.parent / f"{run.path.name}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine", str(run.path)], cwd=ROOT, env=env, stdout=log, stderr=log
        )


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Waits until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
