"""Trackers can neither end a run nor change it, and get everything once: while it trains, or later."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import trackers
from nothing_tune.artifacts import Run, append_event, read_json, write_json
from nothing_tune.engine import delivery
from nothing_tune.engine.delivery import Delivery, deliver
from nothing_tune.engine.journal import Journal
from nothing_tune.engine.progress import Progress
from nothing_tune.errors import Busy, RunError
from tests.engine.support import MakeRun, events, losses, train
from tests.trackers.test_feed import Kept, log
from tests.trackers.wandb_server import KEY, Server, serving

WANDB = {"tracker": "wandb", "project": "p", "mode": "online"}
TENSORBOARD = {"tracker": "tensorboard"}
ROOT = Path(__file__).parents[2]
LONG_S = 60.0
"""What a test waits for comes long before; else the test fails."""


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb" / name))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A Weights & Biases that answers, and the key for it."""
    with serving() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Filled with what the run gives without a tracker, by the first test that asks."""
    return {}


@pytest.fixture
def plain(make_run: MakeRun, expected: dict[str, Any]) -> dict[str, Any]:
    """The result of the run without a tracker, under `result`."""
    if not expected:
        expected["result"] = train(make_run("run-plain"))
    return expected


def same(result: dict[str, Any], plain: dict[str, Any]) -> None:
    assert (result["state"], result["exit_code"]) == ("done", 0)
    assert result["digest"] == plain["result"]["digest"]


def wait_for(what: Callable[[], Any]) -> Any:
    """The first true value of `what`."""
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


def at_step(step: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls `act` once, at the end of `step`."""
    original, done = Progress.on_step_end, []

    def on_step_end(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == step and not done:
            done.append(True)
            act()

    monkeypatch.setattr(Progress, "on_step_end", on_step_end)


def children(pid: int, word: str) -> list[int]:
    """Children of a process whose command line has `word`."""
    out = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and word.encode() in (path / "cmdline").read_bytes():
                out.append(int(path.name))
    return out


def deliverer() -> int:
    return int(wait_for(lambda: children(os.getpid(), "nothing_tune.engine.delivery"))[0])


def warnings(run: Run) -> list[tuple[str, str]]:
    return [(e["what"], e["hint"]) for e in events(run, "warning") if "tracker" in e["what"]]


def evals(run: Run) -> dict[int, float]:
    return {e["step"]: e["metrics"]["eval_loss"] for e in events(run, "eval")}


def once(points: list[tuple[int, float]], numbers_of: dict[int, float]) -> None:
    """The points are those numbers, each once, in order."""
    assert [step for step, _ in points] == sorted(numbers_of)
    assert dict(points) == pytest.approx(numbers_of)


def has_all(server: Server, run: Run) -> None:
    """The server has every loss of the run, and how it ended."""
    once(server.points(run.id, "train/loss"), losses(run))
    once(server.points(run.id, "eval/loss"), evals(run))
    assert server.summaries[run.id]["result/state"] == run.result()["state"]  # type: ignore[index]


def scalars(run: Run, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of the run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run.path / "tracking" / "tensorboard"))
    reader.Reload()
    return [(e.step, e.value) for e in reader.Scalars(tag)]


# A tracker that works


def test_a_run_is_sent_as_it_trains(make_run: MakeRun, server: Server, plain: dict[str, Any]) -> None:
    run = make_run(tracking=WANDB)
    same(train(run), plain)
    has_all(server, run)
    assert warnings(run) == []
    told = server.configs[run.id]
    assert told["name"] == {"value": "tiny"}
    record = read_json(run.path / "tracking" / "delivered.json")
    assert record["tracker"] == "wandb"
    assert 0 < record["offset"] <= (run.path / "events.jsonl").stat().st_size
    sent = len(server.bodies)
    assert deliver(run, "wandb") == 0
    assert len(server.bodies) == sent


def test_a_stopped_and_resumed_run_is_one_run_there(
    make_run: MakeRun, server: Server, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tracking=WANDB)
    with monkeypatch.context() as patch:
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        assert train(run)["state"] == "preempted"
    assert [step for step, _ in server.points(run.id, "train/loss")] == [1, 2, 3]
    monkeypatch.setenv("TUNE_ATTEMPT", "2")
    same(train(run), plain)
    has_all(server, run)
    assert list(server.rows) == [run.id]


class Broken(Exception):
    """What a test lets a run end with."""


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "wandb offline"])
def test_a_run_killed_between_checkpoints_is_sent_once(
    name: str, make_run: MakeRun, server: Server, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = TENSORBOARD if name == "tensorboard" else {**WANDB, "mode": "online" if name == "wandb" else "offline"}
    run = make_run(tracking=tracking)
    folder = run.path / "tracking"

    def handed_over() -> bool:
        if name == "wandb":
            return run.id in server.rows
        return bool(list(folder.rglob("events.out.*" if name == "tensorboard" else "*.wandb")))

    def crash() -> None:
        wait_for(handed_over)
        os.kill(deliverer(), signal.SIGKILL)
        raise Broken

    with monkeypatch.context() as patch:
        at_step(5, crash, patch)
        assert train(run)["state"] == "failed"
    [(what, hint)] = warnings(run)
    assert what == f"the tracker {tracking['tracker']} is switched off: its process ended by signal 9"
    assert hint == f"tune runs sync {run.id} sends it later"
    monkeypatch.setenv("TUNE_ATTEMPT", "2")
    same(train(run), plain)
    if name == "wandb":
        has_all(server, run)
    elif name == "tensorboard":
        once(scalars(run, "train/loss"), losses(run))
        once(scalars(run, "eval/loss"), evals(run))
    else:
        from tests.trackers.test_trackers import wandb_records

        steps = [
            int(item.value_json)
            for record in wandb_records(folder / "wandb", "offline-run-*")
            for item in record.history.item
            if (item.key or "/".join(item.nested_key)) == "_step"
        ]
        assert steps == [1, 2, 3, 4, 5, 6]


# A tracker that does not


@contextlib.contextmanager
def nobody(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Weights & Biases that cannot be used; gives what the warning says of it."""
    if kind == "no key":
        yield "tracking.tracker is wandb, but there is no key for it"
        return
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{address}")
        if kind == "closed port":
            silent.close()
        reason = "timed out" if kind == "black hole" else "[Errno 111] Connection refused"
        yield f"the tracker wandb cannot be reached: {address} does not answer ({reason})"


@pytest.mark.parametrize("kind", ["no key", "closed port", "black hole"])
def test_without_its_tracker_a_run_trains_the_same_and_sends_later(
    kind: str, make_run: MakeRun, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tracking=WANDB)
    with monkeypatch.context() as patch, nobody(kind, patch) as what:
        began = time.monotonic()
        result = train(run)
        took = time.monotonic() - began
        same(result, plain)
        assert warnings(run) == [(what, f"tune runs sync {run.id} sends it later")]
        # What it may cost is bounded by what is configured, whatever the network does.
        assert took < plain["result"]["duration_s"] + LONG_S + delivery.CONNECT_S + delivery.FINISH_S + delivery.GRACE_S
        patch.setattr(delivery, "CONNECT_S", 0.5)
        with pytest.raises(RunError) as caught:
            deliver(run, "wandb")
        assert caught.value.problems[0].what == what
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert deliver(run, "wandb") == len(losses(run)) + len(evals(run))
        assert deliver(run, "wandb") == 0
        has_all(server, run)


@pytest.mark.parametrize("victim", ["service", "process", "server"])
def test_a_tracker_killed_midway_is_nothing_to_the_run(
    victim: str, make_run: MakeRun, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FINISH_S", 5.0)
    run = make_run(tracking=WANDB)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def kill() -> None:
            wait_for(lambda: run.id in server.rows)
            if victim == "server":
                server.shutdown()
                server.server_close()
                return
            process = deliverer()
            os.kill(process if victim == "process" else children(process, "wandb-core")[0], signal.SIGKILL)

        at_step(3, kill, monkeypatch)
        same(train(run), plain)
    [(what, hint)] = warnings(run)
    assert what.startswith("the tracker wandb ")
    assert hint == f"tune runs sync {run.id} sends it later"
    assert children(os.getpid(), "nothing_tune.engine.delivery") == []
    with serving() as after:
        after.rows, after.summaries = server.rows, server.summaries
        monkeypatch.setenv("WANDB_BASE_URL", after.url)
        assert deliver(run, "wandb") > 0
        has_all(after, run)


def test_a_tracker_that_never_ends_is_left_behind(
    make_run: MakeRun, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FINISH_S", 1.0)
    monkeypatch.setattr(delivery, "GRACE_S", 2.0)
    run = make_run(tracking=WANDB)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        hold = threading.Event()
        monkeypatch.setattr(server.RequestHandlerClass, "do_POST", lambda handler: hold.wait(LONG_S))
        same(train(run), plain)
        hold.set()
    assert warnings(run) == [
        (
            "the tracker wandb has not taken everything within 1 s of the end: the rest is left",
            f"tune runs sync {run.id} sends it later",
        )
    ]
    assert children(os.getpid(), "nothing_tune.engine.delivery") == []


def test_the_end_is_seen_though_another_process_has_the_pipe(make_run: MakeRun) -> None:
    run = make_run(tracking=TENSORBOARD)
    append_event(run.path / "events.jsonl", {"time": 1.0, "attempt": 1, **log(1)})
    made = Delivery(Journal(run, 1), run.plan())
    assert made._process is not None
    assert made._process.stdin is not None
    copy = os.dup(made._process.stdin.fileno())  # as a forked data loader has one
    made.finish()
    os.close(copy)
    assert warnings(run) == []
    assert [step for step, _ in scalars(run, "train/loss")] == [1]


def test_what_a_killed_worker_wrote_is_still_handed_over(make_run: MakeRun) -> None:
    run = make_run(tracking=TENSORBOARD)
    append_event(run.path / "events.jsonl", {"time": 1.0, "attempt": 1, **log(1)})
    code = (
        "import os, sys, time; from pathlib import Path; from nothing_tune.artifacts import Run\n"
        "from nothing_tune.engine.delivery import Delivery; from nothing_tune.engine.journal import Journal\n"
        "run = Run(Path(sys.argv[1])); made = Delivery(Journal(run, 1), run.plan())\n"
        "while not list(run.path.rglob('events.out.*')): time.sleep(0.05)\n"
        "print(made._process.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    worker = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert worker.returncode == -signal.SIGKILL
    append_event(run.path / "events.jsonl", {"time": 1.0, "attempt": 1, **log(2)})
    wait_for(lambda: not Path(f"/proc/{int(worker.stdout)}").exists())
    record = read_json(run.path / "tracking" / "delivered.json")
    assert record["settled"]["offset"] == record["offset"] > 0
    deliver(run, "tensorboard")
    assert [step for step, _ in scalars(run, "train/loss")] == [1, 2]


def test_a_process_that_cannot_start_is_a_warning(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tracking=TENSORBOARD)
    monkeypatch.setattr(delivery.sys, "executable", "/nowhere/python")
    made = Delivery(Journal(run, 1), run.plan())
    made.finish()
    [(what, _)] = warnings(run)
    assert what.startswith("the tracker tensorboard cannot start: FileNotFoundError")


def test_an_unknown_tracker_is_a_warning(make_run: MakeRun) -> None:
    run = make_run(tracking={"tracker": "nowhere"})
    made = Delivery(Journal(run, 1), run.plan())
    made.finish()
    assert [what for what, _ in warnings(run)] == ["there is no tracker 'nowhere'"]


def test_without_a_tracker_there_is_no_process(make_run: MakeRun) -> None:
    run = make_run()
    made = Delivery(Journal(run, 1), run.plan())
    assert children(os.getpid(), "nothing_tune.engine.delivery") == []
    made.finish()
    assert not (run.path / "tracking").exists()


def test_two_at_once_do_not_send_twice(make_run: MakeRun) -> None:
    run = make_run(tracking=TENSORBOARD)
    with delivery._alone(run, 0.0), pytest.raises(Busy) as caught:
        deliver(run, "tensorboard")
    assert caught.value.problems[0].what == f"run {run.id} is being sent to its tracker by another process"


# What is handed over


def test_another_tracker_gets_all_and_the_first_one_nothing_twice(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tracking=TENSORBOARD)
    for step in (1, 2):
        append_event(run.path / "events.jsonl", {"time": 1.0, "attempt": 1, **log(step)})
    assert [deliver(run, name) for name in ("tensorboard", "none", "tensorboard", "none")] == [2, 2, 0, 0]
    append_event(run.path / "events.jsonl", {"time": 1.0, "attempt": 1, **log(3)})
    with open(run.path / "events.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"type": "log", "step": 4, "metr')  # torn
    assert [deliver(run, name) for name in ("tensorboard", "none", "tensorboard", "none")] == [1, 1, 0, 0]
    assert [step for step, _ in scalars(run, "train/loss")] == [1, 2, 3]
    write_json(run.path / "result.json", {"state": "done", "metrics": {"train_loss": 1.0}})
    assert deliver(run, "tensorboard") == 0
    (run.path / "tracking" / "delivered.json").write_text("{")  # damaged: all is sent again, and replaces what is there
    assert deliver(run, "tensorboard") == 3
    assert [step for step, _ in scalars(run, "train/loss")] == [1, 2, 3]


def test_a_sink_that_fails_says_so_and_loses_nothing(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tracking=TENSORBOARD)
    for step in (1, 2):
        append_event(run.path / "events.jsonl", {"time": 1.0, "attempt": 1, **log(step)})
    monkeypatch.setenv("SOME_TOKEN", "canary-canary")
    tracker = trackers.find("none")

    def start(*_: Any) -> Kept:
        class Failing(Kept):
            def log(self, metrics: Any, step: int) -> None:
                raise ValueError("not with canary-canary")

        return Failing()

    with monkeypatch.context() as patch:
        patch.setattr(tracker, "start", start)
        with pytest.raises(RunError) as caught:
            deliver(run, "none")
        assert caught.value.problems[0].what == "the tracker none is switched off: ValueError: not with ***"
    assert deliver(run, "none") == 2
