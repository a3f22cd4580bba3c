"""The supervisor of a run: owns it, starts its ranks, watches them, and decides what their end means. Light: no torch.

It holds the run's lock and lease, passes the first SIGINT or SIGTERM on to every rank (the second one kills them), and
exits with the code in result.json. A worker that dies without a result gets a truthful one; out of memory is tried again
with less at once, a training that hangs is killed and continued, and an error that comes back at the same step three times
ends the run. Running it again continues at the newest complete checkpoint; a run that is done stays done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from nothing_tune.artifacts import FINAL_STATES, HEARTBEAT_S, Run, append_event, attempts, write_json
from nothing_tune.engine import endings, failures, ranks
from nothing_tune.engine.endings import died
from nothing_tune.errors import Busy, LaunchError, OutOfMemory, RunError, StorageError, TuneError

__all__ = ["died", "supervise"]

POLL_S = 0.1
"""Seconds between two looks at the ranks."""
GRACE_S = 15.0
"""Seconds that the other ranks get to end once one has failed."""
STOP_S = 5.0
"""Seconds that the other ranks get to end once one was stopped before the training began."""
STACKS_S = 1.0
"""Seconds that a worker that hangs gets to write into engine.log where it does."""
PORT_TRIES = 3
MEND = "free some space or mend the permissions"
HANG_MINUTES = 30.0
HANG_STEPS = 20
"""A step may take this many times the usual before the training counts as hanging, whatever the minutes say."""


def supervise(run: Run, spawn: ranks.Spawn | None = None) -> int:
    """Trains `run` to its end in worker processes and returns its exit code.

    Args:
        spawn: Starts one rank; a process of its own with `nothing_tune.engine.worker` when None.

    Raises:
        Busy: Another process holds the run, or took it over meanwhile.
        StorageError: The run directory cannot be written.
        UsageError: There is no run.
    """
    plan = run.plan()  # a UsageError for a folder that is no run, before anything is written
    lock = attempts.hold(run)
    try:
        done, damage = attempts.salvage(run.path / "result.json")
        if done and done.get("state") == "done":
            return int(done.get("exit_code", 0))
        said = [f"result.json is damaged ({damage}) and passed over"] if damage else []
        attempt = attempts.begin(run, locked=lock is not None, say=said.append)
        supervisor = _Supervisor(run, plan, attempt, spawn or ranks.starter(lock))
        with supervisor.signals_caught():
            return supervisor.work(said)
    finally:
        if lock is not None:
            os.close(lock)


class _Supervisor:
    """One attempt at a run, from its claim to its result."""

    def __init__(self, run: Run, plan: dict[str, Any], attempt: attempts.Attempt, spawn: ranks.Spawn) -> None:
        self.run, self.plan, self.attempt, self.spawn = run, plan, attempt, spawn
        self.started = time.time()
        self.world = ranks.world_size(plan)
        self.signals: list[int] = []
        self.processes: list[ranks.Rank] = []
        self.acts: list[str] = []
        self.from_step = endings.committed(run)
        self.hung_at: int | None = None
        self.ports = 0

    @contextlib.contextmanager
    def signals_caught(self) -> Iterator[None]:
        """Takes SIGINT and SIGTERM over for as long as the ranks are watched."""

        def forward(number: int, _: FrameType | None) -> None:
            self.signals.append(number)
            if len(self.signals) == 1:
                ranks.tell(self.processes, number)
            else:
                ranks.kill(self.processes)

        before = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def work(self, said: list[str]) -> int:
        """Trains, again where that helps, and writes how it ended; returns the exit code."""
        try:
            self._open(said)
            result = None
            while result is None:
                result = self._verdict(self._round())
        except BaseException as error:
            ranks.kill(self.processes)  # none is left behind, whatever went wrong here
            ranks.wait(self.processes, GRACE_S)
            if isinstance(error, OSError):
                error = StorageError(f"the run directory cannot be used any more: {error}", hint=MEND)
            if isinstance(error, Busy) or not isinstance(error, TuneError):
                raise
            result = endings.failed(error, self.attempt.number, self.run)
            if isinstance(error, StorageError):
                print(error, file=sys.stderr)
        self._close(result)
        return int(result["exit_code"])

    def _open(self, said: list[str]) -> None:
        """Readies the run directory: what the attempt before left is cleared away, and the attempt announced."""
        path, now = self.run.path, time.time()
        status, damage = attempts.salvage(path / "status.json")
        if damage:
            said.append(f"status.json is damaged ({damage}) and passed over")
        damage = attempts.adjustments(self.run)[1]
        if damage:
            said.append(f"{attempts.ADJUSTMENTS} is damaged ({damage}) and passed over")
        try:
            (path / "result.json").unlink(missing_ok=True)
            self._rank_results()
            endings.mend(path / "events.jsonl")
        except OSError as error:
            raise StorageError(f"cannot write in {path}: {error.strerror}", hint=MEND) from error
        status = {k: v for k, v in (status or {}).items() if k not in ("progress", "worker", "step_s")}
        status |= {
            "state": "starting", "attempt": self.attempt.number, "pid": os.getpid(), "host": socket.gethostname(),
            "created": status.get("created") or now, "started": self.started, "heartbeat": now,
        }  # fmt: skip
        write_json(path / "status.json", status)
        attempts.beat(self.run, self.attempt, from_step=self.from_step)
        self._event("attempt", number=self.attempt.number, host=socket.gethostname(), from_step=self.from_step)
        for what in said:
            self._event("warning", what=what, hint="")

    def _round(self) -> dict[str, Any] | None:
        """Starts all ranks and waits for all of them; returns their result. None where the training hung and was killed."""
        kills = endings.oom_kills()
        status, _ = attempts.salvage(self.run.path / "status.json")
        if status and status.get("state") != "starting":  # not the first round of this attempt
            write_json(self.run.path / "status.json", {**status, "state": "starting", "heartbeat": time.time()})
        (self.run.path / "result.json").unlink(missing_ok=True)
        base = {
            **os.environ, "TUNE_ATTEMPT": str(self.attempt.number), "TUNE_OWNER": self.attempt.owner,
            "TUNE_SUPERVISOR": str(os.getpid()), "TUNE_STARTED": repr(self.started),
        }  # fmt: skip
        self.processes = []
        try:
            for env in ranks.environments(base, self.world):
                self.processes.append(self.spawn(self.run.path, env))
                if self.signals:
                    ranks.tell(self.processes[-1:], self.signals[0])
        except OSError as error:
            raise LaunchError(
                f"cannot start a worker: {error}", hint="see the limits on processes and memory"
            ) from error
        patience = _Patience(self.plan)
        killed: set[int] = set()
        deadline, next_beat, told = float("inf"), 0.0, False
        while None in (codes := [p.poll() for p in self.processes]):
            now = time.monotonic()
            failed = [c for c in codes if c not in (None, 0, 75, 130)]
            if deadline == float("inf") and (failed or codes[0] is not None):
                deadline = now + GRACE_S
            stopped = next((c for c in codes if c in (75, 130)), None)
            if stopped is not None and not told:  # one rank alone was told to stop
                told = True
                ranks.tell(self.processes, signal.SIGINT if stopped == 130 else signal.SIGTERM)
                # One that waits for its fellows to come hears no signal; nothing is being saved before training.
                if (attempts.salvage(self.run.path / "status.json")[0] or {}).get("state") != "running":
                    deadline = min(deadline, now + STOP_S)
            if now > deadline:
                killed |= {n for n, code in enumerate(codes) if code is None}
                ranks.kill(self.processes)
            if now >= next_beat:
                next_beat = now + HEARTBEAT_S
                status = attempts.salvage(self.run.path / "status.json")[0] or {}
                attempts.owned(self.run, self.attempt.number, self.attempt.owner)
                attempts.beat(self.run, self.attempt, state=status.get("state"), step=status.get("step") or 0)
            if patience.is_over(self.run):
                self._kill_hanging(patience.seconds)
                return None
            time.sleep(POLL_S)
        if told:  # before it could serve the signal that was passed on
            killed |= {n for n, code in enumerate(codes) if code in (-signal.SIGTERM, -signal.SIGINT)}
        if Busy.exit_code in codes:
            attempts.owned(self.run, self.attempt.number, self.attempt.owner)
        if any(codes):
            ranks.kill(self.processes)  # helpers of a rank that died
        result = endings.of(self.run, self.attempt.number, codes, killed, self._rank_results(), self.signals)
        if result.get("signal") == signal.SIGKILL and len(self.signals) < 2 and kills is not None:
            now_kills = endings.oom_kills()
            if now_kills is not None and now_kills > kills:
                return endings.host_memory(result, self.run)
        return result

    def _verdict(self, result: dict[str, Any] | None) -> dict[str, Any] | None:
        """What the end of all ranks means: the result of the run, or None to start them again."""
        if result is None:
            step = endings.committed(self.run)
            if self.signals:
                return endings.stopped(self.signals[0], self.attempt.number, self.run)
            if self.hung_at is not None and step <= self.hung_at:
                status = attempts.salvage(self.run.path / "status.json")[0] or {}
                what = f"the training hangs: it stood still twice at step {status.get('step') or 0}, with no checkpoint between"
                hint = "engine.log shows where every thread stood; monitor.hang_minutes says how long to wait"
                return endings.failed(RunError(what, hint=hint), self.attempt.number, self.run)
            self.hung_at = step
            self._act(f"killed and continued at step {step}: it hung")
            return None
        if result["exit_code"] in (75, 130, 0):
            return result
        if result.get("oom") in ("training", "evaluation"):
            if self.signals:
                return endings.stopped(self.signals[0], self.attempt.number, self.run)
            return self._less_memory(result)
        if self.world > 1 and not self.signals and self.ports < PORT_TRIES and endings.port_taken(result):
            self.ports += 1
            self._event(
                "warning", what="the port for the ranks was taken by another program", hint="another one is tried"
            )
            return None
        if failures.is_loop(attempts.all(self.run)[:-1], result):
            return endings.looping(result)
        return result

    def _less_memory(self, result: dict[str, Any]) -> dict[str, Any] | None:
        """Records the next setting that needs less memory and returns None; the result, with advice, where none is left."""
        from nothing_tune.plan import batch

        before, _ = attempts.adjustments(self.run)
        oom = str(result["oom"])
        training = batch.adjusted(self.plan.get("training") or {}, (e["training"] for e in before))
        rung = batch.smaller(training, oom)
        if rung is None:
            return endings.exhausted(result, [str(e.get("what")) for e in before])
        why = failures.what_of(result) or OutOfMemory.__doc__ or ""
        entry = {
            "time": time.time(), "attempt": self.attempt.number, "step": result.get("step"), "what": rung["what"],
            "why": f"out of memory in {oom}: {why.removeprefix('out of memory: ')}", "training": rung["training"],
        }  # fmt: skip
        attempts.owned(self.run, self.attempt.number, self.attempt.owner)
        write_json(self.run.path / attempts.ADJUSTMENTS, [*before, entry])
        self._event("adjust", step=entry["step"], what=entry["what"], why=entry["why"], training=entry["training"])
        self._act(str(rung["what"]))
        return None

    def _kill_hanging(self, seconds: float) -> None:
        status = attempts.salvage(self.run.path / "status.json")[0] or {}
        self._event("hang", step=status.get("step"), epoch=status.get("epoch"), seconds=round(seconds, 1))
        ranks.tell(self.processes, signal.SIGUSR1)  # where it hangs goes to engine.log
        ranks.wait(self.processes, STACKS_S)
        ranks.kill(self.processes)
        ranks.wait(self.processes, GRACE_S)
        self._rank_results()

    def _close(self, result: dict[str, Any]) -> None:
        """Writes how the attempt ended, unless rank 0 did; `Busy` when the run belongs to another by now."""
        attempts.owned(self.run, self.attempt.number, self.attempt.owner)
        cause = result.pop("cause", None) or failures.what_of(result) or None
        written = attempts.salvage(self.run.path / "result.json")[0]
        status = attempts.salvage(self.run.path / "status.json")[0] or {}
        try:
            if written != result:
                end = {k: result.get(k) for k in ("step", "epoch", "exit_code")}
                self._event("end", state=result["state"], **end)
                self._event("state", state=result["state"])
            if status.get("state") not in FINAL_STATES or written != result:
                write_json(
                    self.run.path / "status.json", {**status, "state": result["state"], "heartbeat": time.time()}
                )
            if written != result:
                write_json(self.run.path / "result.json", result)
        except StorageError as error:
            print(error, file=sys.stderr)
        attempts.end(
            self.run, self.attempt, state=result["state"], exit_code=result["exit_code"], error=cause,
            signal=result.get("signal"), step=result.get("step") or 0, acts=self.acts,
        )  # fmt: skip

    def _act(self, what: str) -> None:
        self.acts.append(what)
        attempts.beat(self.run, self.attempt, acts=self.acts)

    def _rank_results(self) -> dict[int, dict[str, Any]]:
        """What ranks left about how they failed in this attempt, by rank; the files are removed."""
        found = {}
        for path in sorted(self.run.path.glob(".rank-*.json")):
            data, _ = attempts.salvage(path)
            path.unlink(missing_ok=True)
            number = path.stem.removeprefix(".rank-")
            if data and data.get("attempt") == self.attempt.number and number.isdigit():
                found[int(number)] = data
        return found

    def _event(self, kind: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk: what comes next says so
            append_event(
                self.run.path / "events.jsonl",
                {"time": time.time(), "attempt": self.attempt.number, "type": kind, **fields},
            )


class _Patience:
    """Counts the seconds for which a running training has not got on."""

    def __init__(self, plan: dict[str, Any]) -> None:
        monitor = plan.get("monitor")
        minutes = (monitor if isinstance(monitor, dict) else {}).get("hang_minutes", HANG_MINUTES)
        self.limit = float(minutes) * 60 if minutes else None
        self.seconds = 0.0
        self._progress: Any = None
        self._looked = time.monotonic()
        self._every = min(HEARTBEAT_S, self.limit / 8) if self.limit else 0.0

    def is_over(self, run: Run) -> bool:
        """Whether the training has stood still for too long. Looks at status.json now and then, whenever it is called."""
        now = time.monotonic()
        if self.limit is None or now - self._looked < self._every:
            return False
        # A supervisor that was itself stopped for an hour (a laptop asleep, SIGSTOP) counts a look as one look.
        passed, self._looked = min(now - self._looked, 2 * self._every + 1.0), now
        status = attempts.salvage(run.path / "status.json")[0] or {}
        progress = status.get("progress")
        if progress is None or progress != self._progress or status.get("state") != "running":
            self._progress, self.seconds = progress, 0.0
            return False
        self.seconds += passed
        step_s = status.get("step_s")
        usual = HANG_STEPS * float(step_s) if isinstance(step_s, int | float) else 0.0
        return self.seconds > max(self.limit, usual)
