"""The ranks of one attempt: how many there are, what tells them apart, and the processes. Light: it never imports torch."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

ALONE = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Left behind by whoever started the supervisor; a run in one process must not look for others."""


class Rank(Protocol):
    """The part of Popen's face that the supervisor uses."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def wait(self) -> int:
        """Waits for the exit code."""

    def send_signal(self, sig: int) -> None:
        """Sends a signal to the process."""


Spawn = Callable[[Path, dict[str, str]], Rank]
"""Starts one rank on a run directory with a whole environment."""


def world_size(plan: dict[str, Any]) -> int:
    """Processes that train a plan together, at least 1."""
    launch = plan.get("launch")
    said = plan.get("world_size") or 1
    if said == 1 and isinstance(launch, dict):
        said = launch.get("processes") or 1
    return max(1, int(said))


def rank() -> int:
    """This process's rank, by the environment; 0 where it trains alone."""
    return int(os.environ.get("RANK") or 0) if int(os.environ.get("WORLD_SIZE") or 1) > 1 else 0


def result_name(number: int) -> str:
    """The file in the run directory in which a rank leaves how it failed; the supervisor reads and removes it."""
    return f".rank-{number}.json"


def environments(base: dict[str, str], world: int) -> list[dict[str, str]]:
    """The environment of each of `world` ranks on this machine, with a port that is free now."""
    env = {k: v for k, v in base.items() if k not in ALONE}
    if world == 1:
        return [env]
    shared = {
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    # Each rank would take every core for itself.
    threads = env.get("OMP_NUM_THREADS") or str(max(1, _cores() // world))
    return [{**env, **shared, "OMP_NUM_THREADS": threads, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(world)]


def free_port() -> int:
    """A TCP port of this machine that nobody listens on at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def starter(lock: int | None) -> Spawn:
    """Starts ranks as processes in groups of their own. They inherit the lock: the run stays held for as long as one lives."""

    def spawn(run_dir: Path, env: dict[str, str]) -> Rank:
        return subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine.worker", str(run_dir)],
            process_group=0,
            pass_fds=[] if lock is None else [lock],
            env=env,
        )

    return spawn


def tell(processes: list[Rank], number: int) -> None:
    """Sends a signal to every rank that still runs."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def kill(processes: list[Rank]) -> None:
    """Kills every rank with its whole process group, helpers such as data loaders included."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)


def wait(processes: list[Rank], seconds: float) -> None:
    """Waits until every rank has ended, for at most `seconds`: one that the disk holds back may never."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(p.poll() is None for p in processes):
        time.sleep(0.01)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
