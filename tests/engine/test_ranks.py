"""Several ranks: started, told, and ended together; one result; none left behind. The last ones really train on two gloo ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, attempts, checkpoint, write_json
from nothing_tune.engine import ranks, supervisor, worker
from nothing_tune.engine.journal import Journal
from tests.engine.fake_workers import Workers, lives
from tests.engine.support import MakeRun, events, losses

ROOT = Path(__file__).parents[2]
WAIT_S = 180


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "POLL_S", 0.01)
    monkeypatch.setattr(supervisor, "GRACE_S", 0.3)


def two(make_run: MakeRun, **changes: Any) -> Run:
    return make_run(**{"world_size": 2, "launch": {"processes": 2}, **changes})


def what(run: Run) -> str:
    return str((run.result() or {})["error"]["problems"][0]["what"])


def test_the_world_is_what_the_plan_says() -> None:
    assert ranks.world_size({}) == 1
    assert ranks.world_size({"world_size": 4}) == 4
    assert ranks.world_size({"world_size": 1, "launch": {"processes": 2}}) == 2
    assert ranks.world_size({"launch": None}) == 1


def test_each_rank_has_its_place_and_all_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = ranks.environments({"RANK": "7", "X": "y"}, 2)
    assert [(e["RANK"], e["LOCAL_RANK"]) for e in envs] == [("0", "0"), ("1", "1")]
    assert {(e["WORLD_SIZE"], e["LOCAL_WORLD_SIZE"], e["MASTER_ADDR"], e["X"]) for e in envs} == {
        ("2", "2", "127.0.0.1", "y")
    }
    assert len({e["MASTER_PORT"] for e in envs}) == 1
    assert int(envs[0]["OMP_NUM_THREADS"]) >= 1
    assert ranks.environments({"OMP_NUM_THREADS": "3"}, 2)[1]["OMP_NUM_THREADS"] == "3"
    assert ranks.environments({"RANK": "7", "WORLD_SIZE": "8", "X": "y"}, 1) == [{"X": "y"}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", int(envs[0]["MASTER_PORT"])))


def test_the_result_is_that_of_rank_0(make_run: MakeRun) -> None:
    run = two(make_run)
    workers = Workers("sys.exit(0) if rank else done()", world=2)
    assert supervisor.supervise(run, spawn=workers) == 0
    assert [e["RANK"] for e in workers.environments] == ["0", "1"]
    assert len(events(run, "attempt")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_rank_is_told_to_stop(make_run: MakeRun, number: int) -> None:
    run = two(make_run)

    def stop() -> None:
        while len(list(run.path.glob("reached-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    program = "serve_signals(); reached(str(rank)); time.sleep(60)"
    code = supervisor.supervise(run, spawn=Workers(program, world=2))
    assert code == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]  # type: ignore[index]
    assert list(run.path.glob(".rank-*")) == []


def test_the_second_signal_kills_every_rank(make_run: MakeRun) -> None:
    run = two(make_run)

    def stop() -> None:
        for names in ("there", "told"):
            while len(list(run.path.glob(f"reached-{names}-*"))) < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    program = (
        "signal.signal(signal.SIGTERM, lambda *_: reached(f'told-{rank}'))\nreached(f'there-{rank}')\n"
        "while True: time.sleep(1)"
    )
    workers = Workers(program, world=2)
    assert supervisor.supervise(run, spawn=workers) == 5
    assert [p.poll() for p in workers.processes] == [-9, -9]


def test_when_one_rank_is_told_to_stop_the_others_are_too(make_run: MakeRun) -> None:
    run = two(make_run)
    program = "serve_signals(); reached(str(rank))\nif rank: wait_for('0'); end('preempted', 75, 'told', step=1)\ntime.sleep(60)"
    assert supervisor.supervise(run, spawn=Workers(program, world=2)) == 75
    assert (run.result() or {})["step"] == 1


def test_a_rank_that_waits_for_one_that_was_stopped_is_not_left_waiting(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is inside a library that waits for the other, and no signal reaches it."""
    monkeypatch.setattr(supervisor, "STOP_S", 0.2)
    run = two(make_run)
    program = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); reached(str(rank))\n"
        "if rank: wait_for('0'); end('preempted', 75, 'told')\ntime.sleep(60)"
    )
    assert supervisor.supervise(run, spawn=Workers(program, world=2)) == 75
    assert (run.result() or {})["state"] == "preempted"


def test_a_rank_that_the_passed_signal_ends_as_it_starts_is_not_the_cause(make_run: MakeRun) -> None:
    run = two(make_run)
    workers = Workers("if rank: end('preempted', 75, 'told')\ntime.sleep(60)", world=2)
    assert supervisor.supervise(run, spawn=workers) == 75
    assert workers.processes[0].poll() == -signal.SIGTERM


def test_the_others_get_a_while_when_one_dies_and_then_are_killed(make_run: MakeRun) -> None:
    run = two(make_run)
    workers = Workers("fail('boom', step=2) if rank else time.sleep(60)", world=2)
    assert supervisor.supervise(run, spawn=workers) == 5
    assert [p.poll() for p in workers.processes] == [-9, 5]
    assert what(run) == "rank 1: boom"
    assert attempts.all(run)[0]["error"] == "rank 1: boom"


def test_the_rank_that_failed_first_is_the_cause(make_run: MakeRun) -> None:
    """Rank 0 then only sees that a connection broke."""
    run = two(make_run)
    program = "if rank: reached('1'); fail('boom')\nwait_for('1'); time.sleep(0.1); fail('connection closed by peer')"
    assert supervisor.supervise(run, spawn=Workers(program, world=2)) == 5
    assert what(run) == "rank 1: boom"


def test_a_rank_that_dies_without_a_word_is_the_cause(make_run: MakeRun) -> None:
    run = two(make_run)
    program = "if rank: reached('1'); os.kill(os.getpid(), 9)\nwait_for('1'); fail('connection closed by peer')"
    assert supervisor.supervise(run, spawn=Workers(program, world=2)) == 5
    assert what(run) == "rank 1: the worker was killed by signal 9 (SIGKILL)"


def test_out_of_memory_on_one_rank_makes_less_of_all(make_run: MakeRun) -> None:
    run = two(make_run)
    program = (
        "if rank: wait_for('0'); fail('out of memory: 1 GiB', 71, oom='training')\n"
        "reached('0'); fail('connection closed by peer')"
    )
    assert supervisor.supervise(run, spawn=Workers(program, "sys.exit(0) if rank else done()", world=2)) == 0
    assert attempts.all(run)[0]["acts"] == ["micro batch 2 -> 1, accumulation 2 -> 4"]


def test_a_port_that_was_taken_is_no_failure(make_run: MakeRun) -> None:
    run = two(make_run)
    taken = "fail('RuntimeError: EADDRINUSE, address already in use') if rank == 0 else time.sleep(60)"
    workers = Workers(taken, "sys.exit(0) if rank else done()", world=2)
    assert supervisor.supervise(run, spawn=workers) == 0
    assert len(workers.environments) == 4
    assert "another one is tried" in [e["hint"] for e in events(run, "warning")]


def test_only_rank_0_writes(make_run: MakeRun) -> None:
    run = make_run()
    journal = Journal(run, 1, 1, state="starting", created=5.0)
    journal.start()
    journal.event("phase", phase="data")
    journal.status(step=3)
    journal.state("running")
    journal.warn("x")
    journal.close()
    assert (journal.get("step"), journal.get("state"), journal.get("created")) == (3, "running", 5.0)
    assert not (run.path / "status.json").exists()
    assert not (run.path / "events.jsonl").exists()


def test_a_journal_falls_silent_when_the_run_is_taken_over(make_run: MakeRun) -> None:
    run = make_run()
    journal = Journal(run, 1, state="running")
    journal.start()
    (run.path / "attempts").mkdir()
    write_json(run.path / "attempts" / "0002.json", {"attempt": 2})
    write_json(run.path / "status.json", {"attempt": 2})
    deadline = time.monotonic() + WAIT_S
    while not journal._silent and time.monotonic() < deadline:
        journal.status(loss=1.0)
        time.sleep(0.05)
    write_json(run.path / "status.json", {"attempt": 2})
    journal.status(loss=2.0)
    journal.event("log")
    journal.close()
    assert run.status() == {"attempt": 2}
    assert not (run.path / "events.jsonl").exists()


def test_progress_is_kept_in_the_status(make_run: MakeRun) -> None:
    journal = Journal(make_run(), 1)
    seen = [journal.get("progress")]
    for act in (
        lambda: journal.progress(),
        lambda: journal.event("phase", phase="data"),
        lambda: journal.status(step=1),
    ):
        time.sleep(0.001)
        act()
        seen.append(journal.get("progress"))
    assert seen == sorted(set(seen))
    journal.status(loss=1.0)
    assert journal.get("progress") == seen[-1]


def test_ranks_on_a_cpu_talk_by_gloo(make_run: MakeRun) -> None:
    assert worker.as_adjusted(two(make_run))["training"]["ddp_backend"] == "gloo"
    assert "ddp_backend" not in worker.as_adjusted(make_run("run-0002"))["training"]
    other = two(make_run, name="run-0003", **{"training.ddp_backend": "mpi"})
    assert worker.as_adjusted(other)["training"]["ddp_backend"] == "mpi"


def test_adjustments_lie_over_the_plan(make_run: MakeRun) -> None:
    run = make_run()
    write_json(
        run.path / "adjustments.json",
        [{"training": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}}],
    )
    training = worker.as_adjusted(run)["training"]
    assert (training["per_device_train_batch_size"], training["gradient_accumulation_steps"]) == (1, 4)
    assert run.plan()["training"]["per_device_train_batch_size"] == 2


def test_telemetry_is_off_unless_the_user_says_so() -> None:
    for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "SKYPILOT_DISABLE_USAGE_COLLECTION"):
        assert worker.ENVIRONMENT[name] == "1"
    assert worker.ENVIRONMENT["WANDB_ERROR_REPORTING"] == "false"


# Two real ranks

SHORT: dict[str, Any] = {"training.max_steps": 3, "training.save_steps": 3, "training.eval_strategy": "no"}
LONG: dict[str, Any] = {**SHORT, "training.max_steps": 5000, "training.save_steps": 5000}


def launch(run: Run) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(run.path / "engine.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine", str(run.path)], cwd=ROOT, stdout=log, stderr=log, env=env
        )


def training(run: Run, process: subprocess.Popen[bytes]) -> None:
    """Waits until the run has trained a step."""
    deadline = time.monotonic() + WAIT_S
    while not losses(run):
        assert process.poll() is None, (run.path / "engine.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[bytes]) -> dict[int, int]:
    """The pid of each rank."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        rows = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found[int(next(r for r in rows if r.startswith(b"RANK=")).split(b"=")[1])] = int(pid)
    return found


def test_two_ranks_train_one_model(make_run: MakeRun) -> None:
    run = two(make_run, **SHORT)
    process = launch(run)
    assert process.wait(WAIT_S) == 0, (run.path / "engine.log").read_text()[-3000:]
    result = run.result()
    assert result is not None
    assert (result["state"], result["step"]) == ("done", 3)
    assert sorted(losses(run)) == [1, 2, 3]
    assert len(events(run, "start")) == 1
    assert len(events(run, "checkpoint")) == len(checkpoint.steps(run.checkpoints)) == 1
    assert checkpoint.fault(run.checkpoints / "checkpoint-3") is None
    assert list(run.path.glob(".rank-*")) == []


@pytest.mark.parametrize("told", [pytest.param("all", marks=pytest.mark.slow), "one"])
def test_two_ranks_stop_together_on_a_signal(make_run: MakeRun, told: str) -> None:
    run = two(make_run, **LONG)
    process = launch(run)
    training(run, process)
    pids = workers_of(process)
    assert sorted(pids) == [0, 1]
    os.kill(process.pid if told == "all" else pids[1], signal.SIGTERM)
    assert process.wait(WAIT_S) == 75, (run.path / "engine.log").read_text()[-3000:]
    result = run.result()
    assert result is not None
    assert checkpoint.fault(run.checkpoints / f"checkpoint-{result['step']}") is None
    assert not any(lives(pid) for pid in pids.values())


@pytest.mark.slow
def test_no_rank_outlives_the_other_or_the_supervisor(make_run: MakeRun) -> None:
    run = two(make_run, **LONG)
    process = launch(run)
    training(run, process)
    pids = workers_of(process)
    os.kill(pids[1], signal.SIGKILL)
    assert process.wait(WAIT_S) == 5
    assert what(run) == "rank 1: the worker was killed by signal 9 (SIGKILL)"
    assert not any(lives(pid) for pid in pids.values())

    seen = len(events(run, "log"))
    process = launch(run)
    deadline = time.monotonic() + WAIT_S
    while len(events(run, "log")) <= seen and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = workers_of(process)
    process.kill()
    process.wait()
    while any(lives(pid) for pid in pids.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(lives(pid) for pid in pids.values())
