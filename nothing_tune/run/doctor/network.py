"""Checks of what lies elsewhere: the hub, the token for it, the trackers. No secret is ever shown, not even a part of one."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from nothing_tune import trackers
from nothing_tune.data import hub
from nothing_tune.run.doctor.finding import OK, SKIP, WARN, Finding

HUB, TRACKERS = "hub", "trackers"
TIMEOUT_S = 2.0
"""Longest wait for a server, in seconds, its name's look-up included."""
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = {"1", "true", "yes", "on"}

T = TypeVar("T")


def token() -> Finding:
    """Whether there is a token for the hub, and whether it looks like one."""
    for name in TOKEN_VARIABLES:
        if name in os.environ:
            return _token(os.environ[name], f"{name} is set")
    path = Path(os.environ.get("HF_TOKEN_PATH") or hub.home() / "token").expanduser()
    try:
        return _token(path.read_text(encoding="utf-8"), f"`hf auth login` left one in {path}")
    except OSError:
        return Finding(HUB, "token", WARN, "there is none: gated models such as Llama cannot be had", hub.LOGIN)


def _token(value: str, where: str) -> Finding:
    text = value.strip()
    if not text:
        return Finding(HUB, "token", WARN, f"{where}, but empty", hub.LOGIN)
    if any(c.isspace() for c in text) or text[0] in "\"'":
        return Finding(HUB, "token", WARN, f"{where}, but it holds blanks or quotes", hub.LOGIN)
    if not re.fullmatch(r"(hf|api_org|hf_oauth)_\w{10,}", text):
        return Finding(HUB, "token", WARN, f"{where}, but does not look like one (hf_...)", hub.LOGIN)
    return Finding(HUB, "token", OK, f"{where}; whether the hub takes it shows when it is asked")


def reached() -> Finding:
    """Whether the hub answers."""
    off = next((n for n in OFFLINE if os.environ.get(n, "").lower() in _TRUE), None)
    if off:
        return Finding(HUB, "reachable", SKIP, f"not asked: {off} is set, so only what is in the cache is used")
    given = " (HF_ENDPOINT)" if os.environ.get("HF_ENDPOINT") else ""
    answers = within(lambda: hub.reachable(TIMEOUT_S), TIMEOUT_S + 0.5)
    if answers:
        return Finding(HUB, "reachable", OK, f"the hub answers{given}")
    cure = "mend the network or the proxy (HTTPS_PROXY); export HF_HUB_OFFLINE=1 uses the cache without waiting"
    if given:
        cure = "unset HF_ENDPOINT; export HF_HUB_OFFLINE=1 uses the cache without waiting"
    return Finding(
        HUB, "reachable", WARN, f"the hub{given} does not answer within {TIMEOUT_S:g} s: only the cache is used", cure
    )


def keys() -> Iterator[Finding]:
    """Each tracker: its package, its key, and where it sends to."""
    for name in trackers.names():
        if name == "none":
            continue
        tracker = trackers.find(name)
        problems = tracker.check({"tracker": name}, os.environ)
        mode = os.environ.get("WANDB_MODE", "") if name == "wandb" else ""
        if problems:
            what = problems[0].what.removeprefix(f"tracking.tracker is {name}, but ")
            cure = problems[0].hint
            status = WARN if name == "wandb" else SKIP
            yield Finding(TRACKERS, name, status, what, cure if status == WARN else "")
        elif mode in ("offline", "disabled", "dryrun"):
            yield Finding(TRACKERS, name, OK, f"ready; WANDB_MODE={mode}, so nothing is sent")
        else:
            yield _answering(name, tracker)


def _answering(name: str, tracker: trackers.Tracker) -> Finding:
    why = within(
        lambda: tracker.unreachable({"tracker": name}, os.environ, TIMEOUT_S), TIMEOUT_S + 0.5, "no answer in time"
    )
    if why is None:
        return Finding(TRACKERS, name, OK, "ready")
    cure = "mend the network, or add tracking.mode=offline; tune runs sync sends a run later"
    return Finding(TRACKERS, name, WARN, f"there is a key, but {why}: runs train without it", cure)


def within(call: Callable[[], T], seconds: float, otherwise: Any = None) -> T | Any:
    """What `call` returns, `otherwise` where it takes longer than `seconds` or raises: looking up a name knows no timeout."""
    out: list[T] = []

    def work() -> None:
        out.append(call())

    def quiet() -> None:
        try:
            work()
        except Exception:
            out.clear()

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    thread.join(seconds)
    return out[0] if out else otherwise
