"""The supervisor: light, owns the run, tells the truth about a worker that died, and tries again where that helps."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, append_event, attempts, checkpoint, read_json, write_json
from nothing_tune.engine import __main__ as front
from nothing_tune.engine import chat, endings, failures, supervisor, worker
from nothing_tune.errors import Busy, Preempted
from nothing_tune.run import control, resume
from tests.engine.fake_workers import Workers, lives
from tests.engine.support import MakeRun, events, losses

ROOT = Path(__file__).parents[2]
SLEEP = "serve_signals(); reached('there'); time.sleep(60)"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "POLL_S", 0.01)
    monkeypatch.setattr(supervisor, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(supervisor, "STACKS_S", 0.05)
    monkeypatch.setattr(attempts, "LOCK_PATIENCE_S", 0.1)
    monkeypatch.setattr(attempts, "WATCH_S", 0.3)


def result_of(run: Run) -> dict[str, Any]:
    result = run.result()
    assert result is not None
    return result


def what(run: Run) -> str:
    return str(result_of(run)["error"]["problems"][0]["what"])


def hint(run: Run) -> str:
    return str(result_of(run)["error"]["problems"][0]["hint"])


def states(run: Run) -> list[str]:
    return [e["state"] for e in events(run, "state")]


def when_there(run: Run, do: Any, name: str = "there") -> threading.Thread:
    """Does something once a worker says that it has reached a point."""

    def wait() -> None:
        while not (run.path / f"reached-{name}").exists():
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def start(run: Run, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nothing_tune.engine", str(run.path)],
        cwd=ROOT, capture_output=True, text=True, check=False, **kwargs,
    )  # fmt: skip


def test_its_import_stays_light() -> None:
    code = "import sys, nothing_tune.engine.__main__; print([x for x in ('torch', 'transformers', 'datasets') if x in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# One owner


def test_a_second_one_is_told_who_holds_the_run(make_run: MakeRun) -> None:
    run = make_run()
    descriptor = front.hold(run)
    assert descriptor is not None
    second = start(run)
    os.close(descriptor)
    assert second.returncode == 77
    assert f"run {run.id} is held by process {os.getpid()} on " in second.stderr
    assert run.result() is None
    assert not (run.path / "status.json").exists()


@pytest.mark.parametrize("locks", [True, False])
def test_of_two_at_once_one_trains(make_run: MakeRun, locks: bool) -> None:
    run = make_run()
    code = (
        "import sys, errno, fcntl; from pathlib import Path; from nothing_tune.artifacts import Run\n"
        "from nothing_tune.engine.supervisor import supervise; from tests.engine.fake_workers import Workers\n"
        "def refuse(*_): raise OSError(errno.ENOLCK, 'no locks')\n"
        "if sys.argv[2] == 'False': fcntl.flock = refuse\n"
        "sys.stdin.readline()\n"
        "try: sys.exit(supervise(Run(Path(sys.argv[1])), spawn=Workers(\"reached(str(os.getpid())); wait_for('end'); done()\")))\n"
        "except Exception as error: print(error, file=sys.stderr); sys.exit(getattr(error, 'exit_code', 1))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(run.path), str(locks)],
            cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    while all(process.poll() is None for process in both):
        time.sleep(0.01)
    (run.path / "reached-end").touch()
    told = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 77]
    assert sum("is held by process" in text for text in told) == 1
    assert len(list(run.path.glob("reached-[0-9]*"))) == 1
    assert [a["exit_code"] for a in attempts.all(run)] == [0]


def test_who_is_taken_over_touches_nothing_more(make_run: MakeRun) -> None:
    run = make_run()
    workers = Workers("reached('there'); time.sleep(60)")

    def take_over() -> None:
        write_json(run.path / "attempts" / "0002.json", {"attempt": 2, "owner": "other", "host": "elsewhere"})
        (run.path / "status.json").write_text("the other's")
        (run.path / "events.jsonl").write_text("the other's")

    when_there(run, take_over)
    with pytest.raises(Busy, match="was taken over by attempt 2 on elsewhere"):
        supervisor.supervise(run, spawn=workers)
    assert workers.processes[0].poll() == -signal.SIGKILL
    assert (run.path / "status.json").read_text() == (run.path / "events.jsonl").read_text() == "the other's"
    assert run.result() is None
    assert attempts.all(run)[0]["ended"] is None


def test_a_worker_that_is_taken_over_writes_no_result(make_run: MakeRun) -> None:
    """Its commit is refused with 77; the supervisor sees why before its own next heartbeat."""
    run = make_run()
    program = "put('attempts/0002.json', {'attempt': 2, 'host': 'elsewhere'}); sys.exit(77)"
    with pytest.raises(Busy, match="was taken over by attempt 2 on elsewhere"):
        supervisor.supervise(run, spawn=Workers(program))
    assert run.result() is None


def test_an_abandoned_run_of_another_host_is_taken_over_and_said(make_run: MakeRun) -> None:
    run = make_run()
    (run.path / "attempts").mkdir()
    old = {"attempt": 1, "owner": "x", "host": "elsewhere", "pid": 1, "heartbeat": time.time() - 90, "ended": None}
    write_json(run.path / "attempts" / "0001.json", old)
    assert supervisor.supervise(run, spawn=Workers("done()")) == 0
    assert [e["what"] for e in events(run, "warning")] == [
        "attempt 1 on elsewhere was taken over: its heartbeat did not move"
    ]
    assert [(e["number"], e["from_step"]) for e in events(run, "attempt")] == [(2, 0)]


def test_readers_know_who_works_elsewhere(make_run: MakeRun) -> None:
    run = make_run()
    assert not control.alive(run)
    (run.path / "attempts").mkdir()
    entry = {
        "attempt": 1,
        "host": "elsewhere",
        "pid": os.getpid(),
        "created": 5.0,
        "heartbeat": time.time(),
        "ended": None,
    }
    write_json(run.path / "attempts" / "0001.json", entry)
    held = control.holder(run)
    assert held is not None
    assert (held["host"], held["pid"], held["since"]) == ("elsewhere", os.getpid(), 5.0)
    assert control.alive(run)
    for stop in (control.stop, control.interrupt):
        with pytest.raises(Exception, match=f"run {run.id} runs on elsewhere, as process {os.getpid()}") as caught:
            stop(run)
        assert getattr(caught.value, "exit_code", None) == 2
    with pytest.raises(Busy, match="on elsewhere"):
        control.start(run)
    write_json(run.path / "attempts" / "0001.json", {**entry, "heartbeat": time.time() - 61})
    assert not control.alive(run)
    assert control.interrupt(run) is False


def test_an_attempt_of_this_host_that_died_is_held_by_nobody(make_run: MakeRun) -> None:
    run = make_run()
    descriptor = front.hold(run)
    assert descriptor is not None
    attempts.begin(run, locked=True)
    assert control.alive(run)
    os.close(descriptor)
    assert not control.alive(run)


# What it starts from


def test_no_run_directory_is_a_usage_error(tmp_path: Path) -> None:
    result = start(Run(tmp_path))
    assert result.returncode == 2
    assert "is not a run directory" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "\0\1\2"])
def test_damaged_files_stop_no_run_and_are_told(make_run: MakeRun, text: str) -> None:
    run = make_run()
    (run.path / "attempts").mkdir()
    names = ["status.json", "result.json", "adjustments.json", "attempts/0003.json", "run.lock"]
    for name in names:
        (run.path / name).write_text("{}" if (name, text) == ("adjustments.json", "[]") else text)
    assert supervisor.supervise(run, spawn=Workers("done()")) == 0
    told = " ".join(e["what"] for e in events(run, "warning"))
    for name in names[:4]:
        assert f"{name} is damaged" in told
    assert run.status()["attempt"] == 4
    assert run.status()["state"] == "done"


def test_a_torn_last_event_does_not_swallow_the_next_one(make_run: MakeRun) -> None:
    run = make_run()
    append_event(run.path / "events.jsonl", {"type": "log", "step": 1})
    with open(run.path / "events.jsonl", "a") as handle:
        handle.write('{"type": "log", "st')
    assert supervisor.supervise(run, spawn=Workers("done()")) == 0
    assert len(events(run, "log")) == 1
    assert len(events(run, "attempt")) == 1


def test_a_run_that_is_done_stays_done(make_run: MakeRun) -> None:
    run = make_run()
    workers = Workers("done()")
    assert supervisor.supervise(run, spawn=workers) == 0
    assert supervisor.supervise(run, spawn=workers) == 0
    assert len(workers.processes) == 1
    assert len(attempts.all(run)) == 1


def test_a_worker_knows_its_attempt_and_nothing_of_other_ranks(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    run = make_run()
    workers = Workers("done()")
    before = time.time()
    supervisor.supervise(run, spawn=workers)
    env = workers.environments[0]
    (entry,) = attempts.all(run)
    assert (env["TUNE_ATTEMPT"], env["TUNE_OWNER"], env["TUNE_SUPERVISOR"]) == ("1", entry["owner"], str(os.getpid()))
    assert before <= float(env["TUNE_STARTED"]) <= time.time()
    assert "WORLD_SIZE" not in env
    assert "RANK" not in env


def test_a_full_disk_at_the_start_is_told_without_a_traceback(make_run: MakeRun) -> None:
    """No file may grow: what a full disk answers, without a disk to fill."""
    run = make_run()
    result = start(run, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
    assert result.returncode == 74
    assert result.stderr == (
        f"error: cannot write {run.path}/attempts/0001.json: File too large\n  hint: free some space or mend the permissions\n"
    )


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="mounts need root")
def test_a_read_only_run_is_told_without_a_traceback(make_run: MakeRun) -> None:
    run = make_run()
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -m nothing_tune.engine "$1"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(run.path), sys.executable],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "mount" in result.stderr:
        pytest.skip("no mounts here")
    assert result.returncode == 74
    assert result.stderr == (
        f"error: cannot open {run.path}/run.lock: Read-only file system\n  hint: free some space or mend the permissions\n"
    )


# How a worker ended


@pytest.mark.parametrize(
    ("code", "signals", "state", "exit_code", "words"),
    [
        (-9, [], "failed", 5, "killed by signal 9 (SIGKILL)"),
        (-11, [], "failed", 5, "killed by signal 11 (SIGSEGV)"),
        (3, [], "failed", 5, "ended with code 3"),
        (74, [], "failed", 74, "the disk refused to write how the run ended"),
        (-15, [signal.SIGTERM], "preempted", 75, "ended from outside (SIGTERM), before it could save"),
        (1, [signal.SIGINT], "stopped", 130, "stopped by the user, before it could save"),
        (-9, [signal.SIGINT, signal.SIGINT], "stopped", 130, "second signal"),
        (-9, [signal.SIGTERM, signal.SIGTERM], "failed", 5, "second signal"),
    ],
)
def test_the_truth_about_a_worker_that_died(
    make_run: MakeRun, code: int, signals: list[int], state: str, exit_code: int, words: str
) -> None:
    run = make_run()
    write_json(run.path / "status.json", {"step": 7, "epoch": 0.5})
    result = front.died(code, 1, signals, run)
    assert (result["state"], result["exit_code"], result["step"]) == (state, exit_code, 7)
    problem = result["error"]["problems"][0]
    assert words in problem["what"]
    assert "tune resume" in problem["hint"]


def test_what_fails_is_written_once_by_the_supervisor(make_run: MakeRun) -> None:
    run = make_run()
    assert supervisor.supervise(run, spawn=Workers("status(state='running', step=3); fail('boom', step=3)")) == 5
    assert (what(run), states(run), run.status()["state"]) == ("boom", ["failed"], "failed")
    assert [e["exit_code"] for e in events(run, "end")] == [5]
    assert list(run.path.glob(".rank-*")) == []
    (entry,) = attempts.all(run)
    assert {k: entry[k] for k in ("state", "exit_code", "error", "step", "acts")} == {
        "state": "failed", "exit_code": 5, "error": "boom", "step": 3, "acts": [],
    }  # fmt: skip
    assert entry["ended"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_first_signal_is_passed_on(make_run: MakeRun, number: int, code: int) -> None:
    run = make_run()
    when_there(run, lambda: os.kill(os.getpid(), number))
    assert supervisor.supervise(run, spawn=Workers(SLEEP)) == code
    assert result_of(run)["step"] == 1
    assert attempts.all(run)[0]["exit_code"] == code


def test_the_second_signal_kills_the_worker_and_its_children(make_run: MakeRun) -> None:
    run = make_run()
    program = (
        "import subprocess\nsignal.signal(signal.SIGTERM, lambda *_: reached('told'))\n"
        "child = subprocess.Popen(['sleep', '60']); open(os.path.join(run, 'child'), 'w').write(str(child.pid))\n"
        "reached('there')\nwhile True: time.sleep(1)"
    )
    when_there(run, lambda: os.kill(os.getpid(), signal.SIGTERM))
    when_there(run, lambda: os.kill(os.getpid(), signal.SIGTERM), "told")
    assert supervisor.supervise(run, spawn=Workers(program)) == 5
    assert "second signal" in what(run)
    child = int((run.path / "child").read_text())
    while lives(child):
        time.sleep(0.01)


def test_a_worker_that_cannot_start_is_told(make_run: MakeRun) -> None:
    def spawn(*_: Any) -> Any:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    run = make_run()
    assert supervisor.supervise(run, spawn=spawn) == 4
    assert "cannot start a worker" in what(run)
    assert attempts.all(run)[0]["ended"]


def test_a_run_directory_that_goes_away_is_told(make_run: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    run = make_run()

    def spawn(run_dir: Path, _: Any) -> Any:
        run_dir.rename(run_dir.with_name("elsewhere"))
        return subprocess.Popen(["true"])

    assert supervisor.supervise(run, spawn=spawn) == 5
    assert f"cannot write {run.path}/" in capfd.readouterr().err
    assert not run.path.exists()


def test_a_worker_that_is_told_twice_ends_once() -> None:
    """A scheduler signals every process of a job, and the supervisor passes its own signal on."""
    interrupts = worker.Interrupts()
    with pytest.raises(Preempted):
        interrupts._serve(signal.SIGTERM, None)
    interrupts._serve(signal.SIGTERM, None)


# Out of memory

OOM = "'out of memory: 2 GiB', 71, oom="


def test_out_of_memory_is_tried_again_with_less_at_once(make_run: MakeRun) -> None:
    run = make_run(
        **{"training.per_device_train_batch_size": 8, "training.gradient_accumulation_steps": 2, "training.x": 1}
    )
    fails = f"status(state='running', step=3); fail({OOM}'training', step=3)"
    workers = Workers(fails, fails, f"fail({OOM}'evaluation', step=4)", "done()")
    assert supervisor.supervise(run, spawn=workers) == 0
    assert {env["TUNE_ATTEMPT"] for env in workers.environments} == {"1"}
    found = read_json(run.path / "adjustments.json")
    acts = [
        "micro batch 8 -> 4, accumulation 2 -> 4",
        "micro batch 4 -> 2, accumulation 4 -> 8",
        "evaluation batch 8 -> 4",
    ]
    assert [e["what"] for e in found] == acts
    assert found[0]["training"] == {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    assert (found[0]["attempt"], found[0]["step"]) == (1, 3)
    assert found[0]["why"] == "out of memory in training: 2 GiB"
    assert [e["what"] for e in events(run, "adjust")] == acts
    assert states(run) == []  # nobody who watches is told of an end that is none
    assert attempts.all(run)[0]["acts"] == acts


def test_what_was_changed_holds_in_the_next_attempt(make_run: MakeRun) -> None:
    run = make_run(**{"training.activation_checkpointing": True})
    workers = Workers(f"fail({OOM}'training')", "fail('boom')", f"fail({OOM}'training')")
    assert supervisor.supervise(run, spawn=workers) == 5
    assert supervisor.supervise(run, spawn=workers) == 71
    assert what(run) == "out of memory: 2 GiB, with one row at once and activation checkpointing"
    assert hint(run).startswith(
        "tried: micro batch 2 -> 1, accumulation 2 -> 4; what still helps: lower training.max_length"
    )
    assert states(run) == ["failed", "failed"]


def test_out_of_memory_while_loading_is_not_tried_again(make_run: MakeRun) -> None:
    run = make_run()
    workers = Workers(f"fail({OOM}'loading')")
    assert supervisor.supervise(run, spawn=workers) == 71
    assert len(workers.processes) == 1
    assert not (run.path / "adjustments.json").exists()


def test_a_stop_ends_what_would_be_tried_again(make_run: MakeRun) -> None:
    run = make_run()
    program = f"signal.signal(signal.SIGTERM, lambda *_: fail({OOM}'training')); reached('there'); time.sleep(60)"
    when_there(run, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert supervisor.supervise(run, spawn=Workers(program)) == 75
    assert "before it could save" in what(run)


def test_a_worker_killed_for_want_of_host_memory_is_told(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([4, 5])
    monkeypatch.setattr(endings, "oom_kills", lambda: next(counts))
    run = make_run()
    assert supervisor.supervise(run, spawn=Workers("os.kill(os.getpid(), signal.SIGKILL)")) == 71
    assert what(run) == "the system ran out of memory and killed the worker"
    assert "not of the GPU" in hint(run)


@pytest.mark.parametrize(
    ("cgroup", "file", "text", "want"),
    [
        ("0::/a/b\n", "a/b/memory.events", "low 0\noom 2\noom_kill 3\noom_group_kill 0\n", 3),
        ("0::/\n", "memory.events", "oom_kill 1\n", 1),
        ("4:memory:/x\n0::/\n", "memory/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7),
        ("0::/a\n", "other", "", None),
    ],
)
def test_the_kernel_counts_what_it_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, file: str, text: str, want: int | None
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    monkeypatch.setattr(endings, "CGROUPS", tmp_path)
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **k: cgroup if str(self) == "/proc/self/cgroup" else read(self, **k)
    )
    assert endings.oom_kills() == want


# Crash loops


@pytest.mark.parametrize(
    ("errors", "codes"),
    [
        (["at 0x7f: 12 rows"] * 3, [5, 5, 70]),
        (["at 0x7f01: 12 rows", "at 0x8f02: 15 rows", "at 0xaa: 1 rows"], [5, 5, 70]),
        (["one", "two", "one", "one"], [5, 5, 5, 5]),
        (["one", "one", "two", "two", "two"], [5, 5, 5, 5, 70]),
        (["one"] * 5, [5, 5, 70, 70, 70]),
    ],
)
def test_the_same_error_three_times_ends_the_run(make_run: MakeRun, errors: list[str], codes: list[int]) -> None:
    run = make_run()
    for error, code in zip(errors, codes, strict=True):
        assert supervisor.supervise(run, spawn=Workers(f"fail({error!r}, step=4)")) == code
    if codes[-1] == 70:
        assert what(run) == f"the same error three times at step 4: {errors[-1]}"
        assert hint(run) == "trying again will not help before the cause is mended; a hint"


def test_a_step_gained_is_no_loop(make_run: MakeRun) -> None:
    run = make_run()
    for step in (4, 4, 5, 5):
        assert supervisor.supervise(run, spawn=Workers(f"fail('boom', step={step})")) == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGSEGV, 70), (signal.SIGABRT, 70), (signal.SIGKILL, 5)])
def test_which_signals_are_a_fault_of_the_run(make_run: MakeRun, number: int, code: int) -> None:
    run = make_run()
    workers = Workers(
        f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number})"
    )
    assert [supervisor.supervise(run, spawn=workers) for _ in range(3)] == [5, 5, code]


def test_preemptions_between_neither_count_nor_break_the_row(make_run: MakeRun) -> None:
    run = make_run()
    program = "end('preempted', 75, step=4)"
    crash = "fail('boom', step=4)"
    codes = [supervisor.supervise(run, spawn=Workers(p)) for p in (crash, program, crash, program, crash)]
    assert codes == [5, 75, 5, 75, 70]


def test_errors_with_a_code_of_their_own_keep_it(make_run: MakeRun) -> None:
    run = make_run()
    assert [supervisor.supervise(run, spawn=Workers("fail('no such file', 2)")) for _ in range(4)] == [2] * 4


# Hanging

STANDS_STILL = "status(state='running', step=3, progress=1.0); time.sleep(60)"


def test_a_training_that_hangs_is_killed_and_continued(make_run: MakeRun) -> None:
    run = make_run(**{"monitor.hang_minutes": 0.005})
    workers = Workers(f"commit(2); {STANDS_STILL}", f"commit(4); {STANDS_STILL}", "done()")
    assert supervisor.supervise(run, spawn=workers) == 0
    assert [e["step"] for e in events(run, "hang")] == [3, 3]
    assert all(e["seconds"] >= 0.3 for e in events(run, "hang"))
    assert attempts.all(run)[0]["acts"] == [
        "killed and continued at step 2: it hung", "killed and continued at step 4: it hung",
    ]  # fmt: skip


def test_the_second_hang_without_a_checkpoint_between_ends_the_run(make_run: MakeRun) -> None:
    run = make_run(**{"monitor.hang_minutes": 0.005})
    workers = Workers(f"commit(2); {STANDS_STILL}")
    assert supervisor.supervise(run, spawn=workers) == 5
    assert len(workers.processes) == 2
    assert what(run) == "the training hangs: it stood still twice at step 3, with no checkpoint between"
    assert "monitor.hang_minutes" in hint(run)


@pytest.mark.parametrize(
    ("minutes", "status"),
    [
        (None, "state='running', progress=1.0"),
        (0.002, "state='starting', progress=1.0"),
        (0.002, "state='running', progress=1.0, step_s=60.0"),
        (0.002, "state='running'"),
    ],
    ids=["switched off", "loading", "slow steps", "an older worker"],
)
def test_what_is_no_hang(make_run: MakeRun, minutes: float | None, status: str) -> None:
    run = make_run(**{"monitor.hang_minutes": minutes})
    assert supervisor.supervise(run, spawn=Workers(f"status({status}); time.sleep(0.8); done()")) == 0
    assert events(run, "hang") == []


def test_progress_is_patience(make_run: MakeRun) -> None:
    run = make_run(**{"monitor.hang_minutes": 0.01})
    program = "for n in range(8): status(state='running', progress=float(n)); time.sleep(0.15)\ndone()"
    assert supervisor.supervise(run, spawn=Workers(program)) == 0


# Errors that are out of memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        type("OutOfMemoryError", (RuntimeError,), {})("HIP out of memory"),
    ],
    ids=lambda e: f"{type(e).__name__} {e}"[:40],
)
def test_the_faces_of_out_of_memory(error: Exception) -> None:
    assert failures.report(error)[0] == 71


@pytest.mark.parametrize(
    "error",
    [
        ValueError("row 7 says: CUDA out of memory"),
        RuntimeError("the word list ran out of memory foam"),
        KeyError("out of memory"),
        RuntimeError("CUDA error: device-side assert triggered"),
        OSError(errno.ENOENT, "out of memory"),
    ],
    ids=lambda e: f"{type(e).__name__} {e}"[:40],
)
def test_the_bare_words_are_not(error: Exception) -> None:
    assert failures.report(error)[0] == 5


@pytest.mark.parametrize("what", ["torch.empty(2**36)", "bytearray(2**36)"])
def test_real_ones_are_known(what: str) -> None:
    """A child with little address space asks for 64 GiB."""
    code = (
        "import resource, torch\nfrom nothing_tune.engine.failures import report\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**35, 2**35))\n"
        f"try: {what}\nexcept BaseException as error: print(*report(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("71 "), done.stdout


# Real workers


def test_missing_data_is_reported_with_the_cure(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(**{"data.train": str(tmp_path / "none.jsonl")})
    assert start(run).returncode == 2
    problem = result_of(run)["error"]["problems"][0]
    assert result_of(run)["state"] == "failed"
    assert str(tmp_path / "none.jsonl") in problem["what"]
    assert problem["hint"] == "name a file or folder that exists"
    assert "traceback" not in result_of(run)["error"]
    append_event(run.path / "events.jsonl", {"type": "x"})
    assert states(run) == ["failed"]


def test_chat_says_that_there_is_nothing_to_talk_to(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    out = io.StringIO()
    assert chat.main(make_run().path, lines=io.StringIO(), out=out) == 2
    assert '"type": "error"' in out.getvalue()
    assert "tune resume" in out.getvalue()


def test_a_worker_does_not_train_on_when_its_supervisor_dies(make_run: MakeRun) -> None:
    run = make_run(**{"training.max_steps": 5000, "training.eval_strategy": "no", "training.save_steps": 5000})
    with open(run.path / "engine.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine", str(run.path)], cwd=ROOT, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 120
    while not losses(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = run.status()["worker"]
    process.kill()
    process.wait()
    while lives(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert result_of(run)["state"] == "preempted"
    assert checkpoint.fault(run.checkpoints / f"checkpoint-{result_of(run)['step']}") is None
    while control.alive(run) and time.monotonic() < deadline:  # its helpers end with it
        time.sleep(0.05)
    assert not control.alive(run)


def hooked(tmp_path: Path, body: str) -> dict[str, str]:
    """An environment in which a worker runs `body` in every forward pass of the model: `rows` are its rows, `n` counts from 1."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os, time\n"
        "class Hook:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name != 'nothing_tune.engine.session':\n"
        "            return\n"
        "        sys.meta_path.remove(self)\n"
        "        import torch\n"
        "        from transformers import LlamaModel\n"
        "        before, calls = LlamaModel.forward, []\n"
        "        def forward(self, input_ids=None, **k):\n"
        "            calls.append(1)\n"
        "            rows, n = len(input_ids), len(calls)\n"
        f"            {body}\n"
        "            return before(self, input_ids=input_ids, **k)\n"
        "        LlamaModel.forward = forward\n"
        "sys.meta_path.insert(0, Hook())\n"
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


QUICK: dict[str, Any] = {"training.max_steps": 3, "training.save_steps": 1, "training.eval_strategy": "no"}


def test_out_of_memory_is_mended_by_a_real_worker(make_run: MakeRun, tmp_path: Path) -> None:
    """More than one row at once asks for more memory than there is: halved once, and the same rows are learned."""
    run = make_run(**QUICK)
    done = start(run, env=hooked(tmp_path, "rows > 1 and torch.empty(2**47, dtype=torch.uint8)"))
    assert done.returncode == 0, done.stderr
    (entry,) = read_json(run.path / "adjustments.json")
    assert entry["what"] == "micro batch 2 -> 1, accumulation 2 -> 4"
    assert "DefaultCPUAllocator" in entry["why"]
    assert (result_of(run)["step"], sorted(losses(run))) == (3, [1, 2, 3])
    assert states(run).count("failed") == 0
    assert attempts.all(run)[0]["acts"] == [entry["what"]]


@pytest.mark.slow
def test_a_real_worker_that_hangs_is_killed_and_continues(make_run: MakeRun, tmp_path: Path) -> None:
    """The sixth forward pass, in step 3, never returns; engine.log shows where."""
    run = make_run(**QUICK, **{"monitor.hang_minutes": 0.05})
    mark = tmp_path / "hung"
    body = f"n == 6 and not os.path.exists({str(mark)!r}) and (open({str(mark)!r}, 'w').close(), time.sleep(600))"
    done = start(run, env=hooked(tmp_path, body))
    assert done.returncode == 0, done.stderr
    (hang,) = events(run, "hang")
    assert hang["step"] == 2
    assert "sitecustomize.py" in done.stderr
    assert [e["step"] for e in events(run, "resume")] == [2]
    assert attempts.all(run)[0]["acts"] == ["killed and continued at step 2: it hung"]
    assert sorted(losses(run)) == [1, 2, 3]


@pytest.mark.parametrize("name", ["status.json", "result.json"])
def test_a_damaged_file_stops_no_resume_either(make_run: MakeRun, name: str) -> None:
    run = make_run()
    (run.path / name).write_text("{torn")
    assert run.state() == "lost"
    assert resume(run) == run


def test_sockets_of_loading_processes_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long TMPDIR once made training with loading processes wait forever."""
    from multiprocessing import process, util

    monkeypatch.setattr(process.current_process(), "_config", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    folder = worker.short_sockets()
    assert len(f"{util.get_temp_dir()}/listener-xxxxxxxx") <= 107
    assert util.get_temp_dir() == folder
    shutil.rmtree(folder)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert worker.short_sockets() == "/tmp"
