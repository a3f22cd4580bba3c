"""All checks of the environment, in the order of the page."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nothing_tune.run.doctor import gpus, network, probing, software, storage
from nothing_tune.run.doctor.finding import FAIL, WARN, Finding, Found, guarded

LIMIT_S = 20.0
"""Longest that one check may take, in seconds."""
CHECKS: tuple[tuple[str, str, Callable[[], Found]], ...] = (
    (software.SOFTWARE, "python", software.python),
    (software.SOFTWARE, "packages", software.packages),
    (gpus.GPU, "driver", gpus.gpus),
    (storage.MEMORY, "memory", storage.memory),
    (storage.MEMORY, "shared", storage.shared_memory),
    (storage.MEMORY, "limits", storage.limits),
    (storage.STORAGE, "runs", storage.runs),
    (storage.STORAGE, "caches", storage.caches),
    (network.HUB, "token", network.token),
    (network.HUB, "reachable", network.reached),
    (network.TRACKERS, "trackers", network.keys),
    (software.SHELL, "tune", software.tune_on_path),
    (software.SHELL, "text", software.terminal),
    (software.SHELL, "variables", software.variables),
)
"""Heading, name where the check itself fails, and the check."""


def examine() -> list[Finding]:
    """Every light check of this machine, none of which imports torch. Never raises; a check that fails is a finding."""
    out: list[Finding] = []
    for group, name, check in CHECKS:
        out += _in_time(group, name, check)
    return out


def _in_time(group: str, name: str, check: Callable[[], Found]) -> list[Finding]:
    """The findings of `check`, or one that says that it hangs: a dead network disk or driver never answers."""
    out: list[list[Finding]] = []
    thread = threading.Thread(target=lambda: out.append(guarded(group, name, check)), name=f"check {name}", daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if out:
        return out[0]
    cure = "a network disk or a driver that hangs: df, nvidia-smi and dmesg show which"
    return [Finding(group, name, FAIL, f"no answer within {LIMIT_S:g} s", cure)]


def probed(timeout_s: float = probing.TIMEOUT_S) -> list[Finding]:
    """What the libraries do when they are really used; some ten seconds. Never raises."""
    return guarded(probing.LIBRARIES, "probe", lambda: probing.findings(probing.run_probe(timeout_s)))


def first(findings: list[Finding]) -> Finding | None:
    """The finding that is to be mended first: the first failure in the order of the page, else the first warning; None without."""
    return next((f for status in (FAIL, WARN) for f in findings if f.status == status), None)
