"""A real OpenAI-compatible server on the shipped model, a proxy before it that counts and makes faults, and the job as a process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nothing_tune.plan.generation import generation
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import library_root

NANO = str(library_root() / "models" / "nano")
TEACHER = "teacher-model"
"""What the proxy calls the model that the server has: a name without a family."""
WORDS = [
    "file",
    "dog",
    "boat",
    "river",
    "kitchen",
    "letter",
    "window",
    "market",
    "garden",
    "bridge",
    "candle",
    "forest",
]


def write_prompts(path: Path, count: int = 12, authentic: int = 0) -> list[str]:
    """Writes `count` prompts in two levels, the first `authentic` of them with an answer; returns the questions."""
    lines, questions = [], []
    for n in range(count):
        question = f"What is a {WORDS[n % len(WORDS)]}, for number {n}?"
        questions.append(question)
        row = {"question": question, "level": "A1" if n % 2 == 0 else "B1", "id": n}
        lines.append(json.dumps({**row, "answer": f"Authentic answer number {n}."} if n < authentic else row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return questions


def write_recipe(folder: Path, body: str = "", model: str = "org/unknown-model") -> Path:
    """Writes a recipe with a `generate` section that takes whatever the small model says."""
    path = folder / "teacher.yaml"
    path.write_text(
        f"""
layers: [methods/lora]
name: teacher
model: {{name_or_path: {model}}}
data: {{train: out.jsonl}}
generate:
  prompts: {folder / "prompts.jsonl"}
  prompt: question
  answer: answer
  group_by: level
  output: {folder / "out.jsonl"}
  generator: {{kind: transformers, model: {NANO}, batch_size: 1}}
  system: "You answer level {{group}}."
  sampling: {{max_new_tokens: 12, temperature: 0.7, top_p: 0.9, seed: 42}}
  same_family: true
  filters: {{refusals: false, artefacts: false, openings: null, near_duplicates: null, unfinished: keep}}
{body}
""",
        encoding="utf-8",
    )
    return path


def request(recipe: Path, *overrides: str, **fields: Any) -> dict[str, Any]:
    """The request that the command sends to the job."""
    wanted = generation(load_recipe(recipe, gpu="cpu", overrides=overrides)).to_json()
    return {"generation": wanted, "limit": None, "retry_failed": False, "dry_run": False, "command": "again", **fields}


@contextlib.contextmanager
def job(asked: dict[str, Any], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The job as a process, its request sent, its input held open; killed at the end."""
    with open(log, "ab") as noise:
        process = subprocess.Popen(
            [sys.executable, "-m", "nothing_tune.engine", "generate"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        assert process.stdin
        process.stdin.write((json.dumps(asked) + "\n").encode())
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


def finish(asked: dict[str, Any], log: Path) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Runs the job to its end: `(exit code, its last event, all events)`."""
    with job(asked, log) as process:
        assert process.stdout
        events = [json.loads(line) for line in process.stdout if line.startswith(b"{")]
        return process.wait(), events[-1], events


def ledger(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of the file of answers; empty while there is none."""
    path = folder / "out.jsonl.generate" / "answers.jsonl"
    out = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        with contextlib.suppress(ValueError):
            out.append(json.loads(line))
    return out


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until `what()` holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(log: Path) -> Iterator[int]:
    """`transformers serve` on the shipped model; gives its port once it answers."""
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        NANO,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with open(log, "ab") as noise:
        process = subprocess.Popen(
            [*command, "--device", "cpu"], stdout=noise, stderr=noise, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-2000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_for(ready, 120)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Proxy:
    """Passes requests on to the server, one after the other numbered from 0; `fault(number, body)` may answer instead.

    Attributes:
        seen: The user's text of every request, faults too, in order.
        answered: The user's text of every request that the server answered.
        fault: What happens to a request: None passes it on; `drop`, `slow`, or a status such as `429` with the text behind it.
    """

    def __init__(self, port: int, fault: Callable[[int, dict[str, Any]], str | None] = lambda n, b: None) -> None:
        self.seen: list[str] = []
        self.answered: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.fault = fault
        self.delay_s = 0.0
        lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = body["messages"][-1]["content"]
                with lock:
                    number = len(proxy.seen)
                    proxy.seen.append(asked)
                    proxy.bodies.append(body)
                    proxy.headers.append({k.lower(): v for k, v in self.headers.items()})
                what = proxy.fault(number, body)
                if what == "drop":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if what == "slow":
                    time.sleep(3)
                    self.close_connection = True
                    return
                if what:
                    status, _, text = what.partition(" ")
                    self._reply(int(status), json.dumps({"error": {"message": text or "made by the test"}}).encode())
                    return
                time.sleep(proxy.delay_s)
                with lock:  # the server has one model, and its answers are to be the same each time
                    status_, reply = proxy.forward(port, {**body, "model": NANO})
                    if status_ == 200:
                        proxy.answered.append(asked)
                with contextlib.suppress(OSError):
                    self._reply(status_, reply)

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                if status == 429:
                    self.send_header("retry-after", "1")
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @staticmethod
    def forward(port: int, body: dict[str, Any]) -> tuple[int, bytes]:
        """Asks the server: `(status, body)`."""
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            link.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            reply = link.getresponse()
            return reply.status, reply.read()
        finally:
            link.close()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
