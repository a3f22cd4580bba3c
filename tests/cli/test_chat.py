"""`tune chat`, with a job that speaks the engine's protocol."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.launchers import local

JOB = """
import json, sys
print("noise of a library", flush=True)
print(json.dumps({"type": "ready"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    text = " ".join(m["content"] for m in asked["messages"]) + f" t={asked['temperature']}"
    if "fail" in text:
        print(json.dumps({"type": "error", "what": "out of memory", "hint": "shorter", "exit_code": 71}), flush=True)
        break
    if "die" in text:
        break
    for piece in text.split(" "):
        print(json.dumps({"type": "token", "text": piece + " "}), flush=True)
    print(json.dumps({"type": "done", "text": text + "\\x1b[31m"}), flush=True)
"""


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of the jobs that were started."""
    started: list[list[str]] = []

    def job(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        started.append([*arguments, log.name])
        return subprocess.Popen([sys.executable, "-c", JOB], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(local, "job", job)
    return started


def test_prompt(tune: Callable[..., Any], demo: Any, jobs: list[list[str]]) -> None:
    demo.run.adapter.mkdir()
    result = tune("chat", "latest", "--prompt", "hello there", "--system", "be brief")
    assert (result.code, result.out, result.err) == (0, "be brief hello there t=0.0[31m\n", "")
    assert jobs == [["chat", str(demo.run.path), "chat.log"]]


def test_base(tune: Callable[..., Any], demo: Any, jobs: list[list[str]]) -> None:
    result = tune("chat", "latest", "--prompt", "hello", "--base", "--temperature", "0.5")
    assert (result.code, result.out) == (0, "hello t=0.5[31m\n")
    assert jobs == [["chat", str(demo.run.path), "--base", "chat.log"]]


def test_lines(tune: Callable[..., Any], demo: Any, jobs: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal each input line gets its reply, and the conversation is remembered."""
    import io

    demo.run.adapter.mkdir()
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    assert tune("chat", "latest").out == "one t=0.7[31m\none one t=0.7\x1b[31m two t=0.7\x1b[31m\n".replace("\x1b", "")


def test_nothing_yet(tune: Callable[..., Any], demo: Any, jobs: list[list[str]]) -> None:
    result = tune("chat", "latest", "--prompt", "x")
    assert (result.code, jobs) == (2, [])
    assert result.err == (
        f"error: run {demo.run.id} has nothing to talk to yet: it is starting\n"
        f"  hint: tune resume {demo.run.id} goes on; --base talks to the base model\n"
    )


@pytest.mark.parametrize(
    ("word", "code", "said"), [("fail", 71, "out of memory"), ("die", 5, "the chat ended without a word")]
)
def test_errors(tune: Callable[..., Any], demo: Any, jobs: list[list[str]], word: str, code: int, said: str) -> None:
    result = tune("chat", "latest", "--prompt", word, "--base")
    assert result.code == code
    assert result.err.startswith(f"error: {said}\n")
