"""The processes of a rehearsal: libraries are imported once, then each piece of work is a child of its own, forked.

A child starts as fresh as a process of its own (random state, caches, threads), in a tenth of a second instead of ten. Where
forking is not safe (macOS), runs are started as processes, and other work is done in this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nothing_tune.engine import ranks
from nothing_tune.errors import RunError, TuneError

FORKS = sys.platform == "linux"
"""Whether a process that has imported torch may be forked: so on Linux, as long as it has computed nothing."""


class Forked:
    """A forked process with the part of Popen's face that the supervisor uses; `look` is called at every poll."""

    def __init__(self, pid: int, look: Callable[[], None]) -> None:
        self.pid, self.look = pid, look
        self.code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it; None while it lives."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            self.look()
        return self.code

    def wait(self) -> int:
        """Waits for its end."""
        while (code := self.poll()) is None:
            time.sleep(0.02)
        return code

    def send_signal(self, sig: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)


def spawner(log: Path, look: Callable[[], None]) -> ranks.Spawn:
    """Starts the worker of a run for `supervise`, what it prints going to `log`; `look` is called while it is watched.

    The child stays in this process's group, so that killing the group leaves nothing behind.
    """

    def spawn(run_dir: Path, env: dict[str, str]) -> ranks.Rank:
        if not FORKS:
            import subprocess

            with open(log, "ab") as out:
                command = [sys.executable, "-m", "nothing_tune.engine.worker", str(run_dir)]
                return subprocess.Popen(command, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

        def work() -> int:
            os.environ.clear()
            os.environ.update(env)
            from nothing_tune.engine import worker

            return worker.main(run_dir)

        return Forked(_fork(work, log), look)

    return spawn


def call(work: Callable[[], dict[str, Any]], folder: Path, log: Path) -> dict[str, Any]:
    """What `work` returns (JSON-able), done in a child process.

    Args:
        folder: Where the answer is left for a moment.
        log: Gets what the child prints.

    Raises:
        TuneError: What `work` raised; `RunError` where the child was killed.
    """
    if not FORKS:
        return work()
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)

    def told() -> int:
        from nothing_tune.engine.failures import report

        try:
            data: dict[str, Any] = {"value": work()}
        except BaseException as error:
            traceback.print_exc()
            code, known = report(error)
            data = {"code": code, **known}
        answer.write_text(json.dumps(data, default=str), encoding="utf-8")
        return 0

    code = Forked(_fork(told, log), lambda: None).wait()
    try:
        data = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise died(code, log) from None
    if "value" not in data:
        raise error_of(data, int(data.get("code") or RunError.exit_code))
    value: dict[str, Any] = data["value"]
    return value


def died(code: int, log: Path) -> RunError:
    """The error for a child that ended with `code` (minus a signal's number) without an answer."""
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    often = "; this is often the system running out of memory" if code == -signal.SIGKILL else ""
    return RunError(f"a process of the rehearsal ended {how} without a word", hint=f"{log} has its words{often}")


def error_of(error: dict[str, Any] | None, code: int) -> TuneError:
    """The `TuneError` with exit code `code` that `failures.report` wrote as `error`."""
    from nothing_tune.errors import Place, Problem

    kinds: list[type[TuneError]] = [TuneError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    chosen = next((kind for kind in kinds if kind.exit_code == code), RunError)
    problems = []
    for given in (error or {}).get("problems") or [{"what": "it failed for a reason that nobody wrote down"}]:
        place = given.get("place")
        fields = {k: given[k] for k in ("what", "key", "layer", "hint", "severity") if given.get(k)}
        problems.append(Problem(**fields, place=Place(**place) if isinstance(place, dict) else None))
    return chosen(*problems)


def _fork(work: Callable[[], int], log: Path) -> int:
    """Forks a child that does `work`, prints to `log` and ends with what it returns; the child's process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for source, target in ((null, 0), (handle, 1), (handle, 2)):
            os.dup2(source, target)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
