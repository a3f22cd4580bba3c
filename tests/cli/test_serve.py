"""`tune serve`, with a server that says it is well, or ends."""

from __future__ import annotations

import json
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

from nothing_tune.cli import serve as cli
from nothing_tune.run import serve

SERVER = """
import http.server, subprocess, sys
print("a word of the server", flush=True)
if "die" in sys.argv:
    sys.exit(3)
child = subprocess.Popen(["sleep", "60"])
open(sys.argv[2], "w").write(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, demo: Any, tmp_path: Path, port: int) -> Iterator[list[str]]:
    """Words that the server gets besides; a run that can be served by it."""
    more: list[str] = []
    demo.run.adapter.mkdir()
    (demo.run.adapter / "tokenizer_config.json").write_text("{}")

    def made(name: str, laid: Any, folder: Path, model: str, host: str, at: int, gpu: Any) -> serve.Server:
        words = (sys.executable, "-S", "-c", SERVER, str(at), str(tmp_path / "child"), *more)
        url = f"http://127.0.0.1:{at}"
        return serve.Server(
            "transformers", words, f"{url}/v1", f"{url}/health", model, folder=folder, notes=("a note",)
        )

    monkeypatch.setattr(serve, "plan_of", made)
    monkeypatch.setattr(serve, "missing", lambda name: [])
    monkeypatch.setattr(cli, "_lay_out", lambda *_, **__: {})
    monkeypatch.setattr(cli, "POLL_S", 0.02)
    yield more
    child = tmp_path / "child"
    assert not child.exists() or gone(int(child.read_text()))


def gone(pid: int) -> bool:
    """Whether a process has ended; it may take a moment until its new parent knows."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_it_serves_until_ctrl_c_and_takes_all_children_with_it(
    tune: Callable[..., Any], demo: Any, server: list[str], port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = cli._rows

    def press(*words: Any) -> list[str]:
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        return rows(*words)

    monkeypatch.setattr(cli, "_rows", press)
    result = tune("serve", "latest", "--port", str(port))
    log = demo.run.path / "serve.log"
    assert result.code == 0
    assert result.err == "transformers is loading the model…\nended\n"
    assert result.out == "\n".join(
        [
            f"{demo.run.id}: org/model, QLoRA",
            "  server  transformers",
            f"  url     http://127.0.0.1:{port}/v1",
            f"  model   {demo.run.id}  what requests must name",
            f"  log     {log}",
            "  note    a note",
            "",
            f"curl http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' \\",
            f'  -d \'{{"model": "{demo.run.id}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'',
            "",
            "from openai import OpenAI",
            f'client = OpenAI(base_url="http://127.0.0.1:{port}/v1", api_key="none")',
            f'said = client.chat.completions.create(model="{demo.run.id}", messages=[{{"role": "user", "content": "Hello"}}])',
            "print(said.choices[0].message.content)",
            "",
            "Ctrl-C ends it",
            "",
        ]
    )
    assert log.read_text() == "a word of the server\n"
    assert (tmp_path / "child").is_file()


def test_a_server_that_dies_a_taken_port_and_a_dry_run(
    tune: Callable[..., Any], demo: Any, server: list[str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.append("die")
    log = demo.run.path / "serve.log"
    result = tune("serve", "latest", "--port", str(port))
    assert result.code == 5
    assert result.err == (
        "transformers is loading the model…\n  a word of the server\n"
        f"error: transformers ended with code 3\n  hint: {log} has all it said\n"
    )
    log.unlink()
    monkeypatch.setattr(cli, "_lay_out", None)
    dry = json.loads(tune("serve", "latest", "--port", str(port), "--dry-run", "--json").out)
    assert (dry["server"], dry["model"], dry["command"][-1]) == ("transformers", demo.run.id, "die")
    assert not log.exists()
    monkeypatch.setattr(cli, "_lay_out", lambda *_, **__: {})
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        result = tune("serve", "latest", "--port", str(port))
    assert (result.code, result.out) == (2, "")
    assert result.err == f"error: port {port} of 127.0.0.1 is taken\n  hint: --port {port + 1} is another one\n"
    away = tune("serve", "latest", "--host", "192.0.2.1", "--port", str(port))
    assert away.code == 2
    assert away.err.startswith(f"error: cannot listen on 192.0.2.1, port {port}: ")


def test_nothing_is_left_of_a_program_that_was_ended_while_the_model_loads(tmp_path: Path) -> None:
    """The process group goes, whatever the server does with the signal."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-S", "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    process.stdout.readline()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "END_S", 0.1)
        cli._end(process)
    process.stdout.close()
    assert process.poll() == -signal.SIGKILL
