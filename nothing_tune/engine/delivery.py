"""Hands a run's events to its tracker, in a process of its own: whatever the tracker does, the run trains on.

events.jsonl is the truth, and all that is handed over is read from it. `Delivery` is the worker's end: it starts the
process beside the training and, when all is over, gives it `FINISH_S` to end. `deliver` is the work: it goes on where
tracking/delivered.json says, follows the file while the worker lives, and says when all was handed over.
`tune runs sync` calls it for what was missed. Light: it imports no torch, and the tracker's library only to use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nothing_tune import trackers
from nothing_tune.artifacts import Run, read_json, write_json
from nothing_tune.artifacts.redact import guard_output, redact, redact_all
from nothing_tune.engine.journal import Journal
from nothing_tune.errors import Busy, RunError, StorageError, TuneError
from nothing_tune.trackers._feed import Feed, Position, first_step

CONNECT_S = 5.0
"""How long the tracker's server may take to answer, in seconds, before the run goes on without it."""
FINISH_S = 30.0
"""How long a run that has ended waits for its tracker, in seconds."""
GRACE_S = 5.0
"""How much longer than that until the process that delivers is killed."""
SAVE_S = 2.0
"""delivered.json is written at most this often, in seconds, while a run trains."""
POLL_S = 0.5
"""How often events.jsonl is looked at, in seconds."""
FILE = "delivered.json"


class Delivery:
    """The worker's end of the process that delivers. Nothing here raises, and only `finish` waits.

    With the tracker `none` there is no process. A process that cannot start, dies or gives up leaves one warning, and
    what it missed to `tune runs sync`.
    """

    def __init__(self, journal: Journal, plan: dict[str, Any]) -> None:
        self._journal = journal
        self._name = trackers.name_of(plan)
        self._cure = f"tune runs sync {journal.run.id} sends it later"
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        if self._name == "none":
            return
        command = [sys.executable, "-m", "nothing_tune.engine.delivery", str(journal.run.path), str(FINISH_S)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
            )
            self._listener = threading.Thread(target=self._listen, name="delivery", daemon=True)
            self._listener.start()
        except Exception as error:
            self._warn(f"the tracker {self._name} cannot start: {type(error).__name__}: {error}")

    def finish(self) -> None:
        """Lets the process hand over the rest, for at most `FINISH_S`; call it when result.json is written."""
        if self._process is None or self._listener is None:
            return
        with contextlib.suppress(Exception):
            assert self._process.stdin is not None
            with contextlib.suppress(OSError), self._process.stdin as pipe:
                pipe.write("end\n")  # its end alone is not seen while a forked data loader has a copy of it
            self._listener.join(FINISH_S + GRACE_S)
            if self._listener.is_alive():
                os.killpg(self._process.pid, signal.SIGKILL)
                self._listener.join(GRACE_S)

    def _listen(self) -> None:
        """Turns what the process says into warnings, until it ends."""
        told = False
        with contextlib.suppress(Exception):
            assert self._process is not None
            assert self._process.stdout is not None
            with self._process.stdout as lines:
                for line in lines:
                    with contextlib.suppress(ValueError):
                        self._warn(json.loads(line)["what"])
                        told = True
            code = self._process.wait()
            if code and not told:
                how = f"with code {code}" if code > 0 else f"by signal {-code}"
                self._warn(f"the tracker {self._name} is switched off: its process ended {how}")

    def _warn(self, what: str) -> None:
        with contextlib.suppress(Exception):
            self._journal.warn(what, self._cure)


def deliver(
    run: Run, name: str, more: Callable[[], bool] | None = None, pid: int | None = None, wait: float = 0.0
) -> int:
    """Hands over to the tracker `name` what it has not been given; returns how many events with numbers that were.

    Args:
        more: Called when all there is was handed over: waits a little and says whether to look again. None ends there.
        pid: The process that trains, which a tracker may watch.
        wait: Seconds to wait for another process that delivers this run.

    Raises:
        RunError: The tracker cannot be used or reached, or fails; what it was not given stays in events.jsonl.
        Busy: Another process delivers this run.
        StorageError: The run's directory cannot be written.
    """
    plan = run.plan()
    tracker, settings = trackers.find(name), dict(plan.get("tracking") or {})
    with _alone(run, wait) as folder:
        record = _Record(folder / FILE, name)
        step = first_step(run.events(record.begin.offset), record.begin)
        if more is None and step is None and not record.lacks(run.result()):
            return 0
        problems = tracker.check(settings, os.environ)
        if problems:
            raise RunError(*problems)
        reason = tracker.unreachable(settings, os.environ, CONNECT_S)
        if reason is not None:
            raise RunError(
                f"the tracker {name} cannot be reached: {reason}", hint="nothing is lost: it can be sent later"
            )
        try:
            return _hand_over(run, plan, tracker, record, {**settings, "from_step": step, "pid": pid}, more)
        except TuneError:
            raise
        except Exception as error:
            raise RunError(
                f"the tracker {name} is switched off: {redact(f'{type(error).__name__}: {error}')}",
                hint="nothing is lost: it can be sent later",
            ) from error


def _hand_over(
    run: Run,
    plan: dict[str, Any],
    tracker: trackers.Tracker,
    record: _Record,
    settings: dict[str, Any],
    more: Callable[[], bool] | None,
) -> int:
    config = redact_all(trackers.config_of(plan))
    sink = tracker.start(settings, run.id, trackers.label_of(plan, run.id), config, record.path.parent)
    feed = Feed(sink, record.begin)
    saved = time.monotonic()
    while True:
        for event, behind in run.events(feed.reached.offset):
            feed.take(event, behind)
            if time.monotonic() - saved > SAVE_S:
                record.save(feed.reached, feed.settled)
                saved = time.monotonic()
        if feed.settled != record.settled and time.monotonic() - saved > SAVE_S:
            record.save(feed.reached, feed.settled)
            saved = time.monotonic()
        if more is None or not more():
            break
    for event, behind in run.events(feed.reached.offset):  # what came before the word that it is over
        feed.take(event, behind)
    result = run.result()
    if record.lacks(result):
        sink.summary(redact_all(_summary(result)))
    sink.finish()
    record.save(feed.reached, feed.reached, result)
    return feed.sent


class _Record:
    """tracking/delivered.json: `{tracker, offset, steps, settled, result, others}`, the last for trackers used before."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        found = None
        with contextlib.suppress(TuneError):  # a damaged one is made anew
            found = read_json(path)
        data: dict[str, Any] = found if isinstance(found, dict) else {}
        self._others = dict(data.pop("others", None) or {})
        if data.get("tracker") not in (None, name):
            self._others[data["tracker"]] = data
            data = {}
        data = self._others.pop(name, None) or data
        self.name = name
        self.begin = self.settled = Position.from_json(data.get("settled") or data)
        self._result = data.get("result")

    def lacks(self, result: dict[str, Any] | None) -> bool:
        """Whether `result` has not been handed over."""
        return result is not None and _digest(result) != self._result

    def save(self, reached: Position, settled: Position, result: dict[str, Any] | None = None) -> None:
        """Writes how far the tracker is, and where it would begin anew."""
        self.settled = settled
        if result is not None:
            self._result = _digest(result)
        data = {"tracker": self.name, **reached.to_json(), "settled": settled.to_json(), "result": self._result}
        write_json(self.path, {**data, "others": self._others}, durable=False)


def _digest(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()[:16]


def _summary(result: dict[str, Any] | None) -> dict[str, Any]:
    """Of a result what a tracker shows: state, step and metrics."""
    result = result or {}
    known = {k: result.get(k) for k in ("state", "exit_code", "step", "epoch", "duration_s", "digest")}
    return {k: v for k, v in {**known, **(result.get("metrics") or {})}.items() if isinstance(v, int | float | str)}


@contextlib.contextmanager
def _alone(run: Run, wait: float) -> Iterator[Path]:
    """Holds the right to deliver `run` and gives its folder `tracking`.

    Raises:
        Busy: Another process has the right for longer than `wait` seconds.
        StorageError: The run's directory cannot be written.
    """
    folder = run.path / "tracking"
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror}", hint="mend the permissions, or free some space"
        ) from error
    until = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise Busy(
                        f"run {run.id} is being sent to its tracker by another process",
                        hint="what that leaves can be sent when it has ended",
                    ) from None
                time.sleep(POLL_S)
            except OSError:  # a file system without locks
                break
        yield folder
    finally:
        os.close(descriptor)


def main(path: Path, finish_s: float) -> int:
    """The process beside a worker: delivers until standard input speaks or ends, or the worker does, then for `finish_s` more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are the worker's to serve; this process ends with it
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker, name = os.getppid(), "none"

    def say(error: TuneError) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps({"what": error.problems[0].what}), file=out, flush=True)

    def late() -> None:
        say(RunError(f"the tracker {name} has not taken everything within {finish_s:g} s of the end: the rest is left"))
        _kill_children()
        os._exit(3)

    over = threading.Event()

    def watch() -> None:
        """Waits for the worker's end, then gives the tracker a last while."""
        while os.getppid() == worker and not select.select([0], [], [], POLL_S)[0]:
            pass
        over.set()
        time.sleep(finish_s)
        late()

    threading.Thread(target=watch, name="worker", daemon=True).start()
    try:
        run = Run(path)
        name = trackers.name_of(run.plan())
        deliver(run, name, lambda: not over.wait(POLL_S), pid=worker, wait=finish_s + GRACE_S)
    except TuneError as error:
        say(error)
        return 1
    except BaseException as error:
        say(RunError(redact(f"the tracker {name} is switched off: {type(error).__name__}: {error}")))
        return 1
    finally:
        _kill_children()
    return 0


def _kill_children() -> None:
    """Kills what the tracker's library has left running, such as a service of its own. Linux only."""
    for tid in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            for pid in (tid / "children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    guard_output()
    code = main(Path(sys.argv[1]), float(sys.argv[2]))
    sys.stdout.flush()
    os._exit(code)  # hooks of libraries at the end of a process may wait for a network that is not there
