"""What the tests of evaluations share: the job called in this process, and a judge that is a real server with a rule."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.engine import evaluate
from nothing_tune.engine.job import answer
from nothing_tune.recipe.judges import find_judge


def ask(run: Run, **changes: Any) -> tuple[int, list[dict[str, Any]]]:
    """`(exit code, events)` of the job for `run`; `changes` are fields of the request."""
    request = {
        "run": str(run.path), "which": "handed-over", "data": None, "tasks": [], "rows": None, "base": True, "generate": False,
        "max_new_tokens": 8, "seen": False, "judge": None, "endpoint": None, "against": None, "group_by": "", "name": None, **changes,
    }  # fmt: skip
    out = io.StringIO()
    code = answer(evaluate._work, io.StringIO(json.dumps(request) + "\n"), out)
    return code, [json.loads(line) for line in out.getvalue().splitlines()]


def report(run: Run, **changes: Any) -> dict[str, Any]:
    """The evaluation that the job reports; fails where it reports an error."""
    code, events = ask(run, **changes)
    assert code == 0, events[-1]
    found: dict[str, Any] = events[-1]["evaluation"]
    return found


class Judging:
    """An OpenAI-compatible endpoint whose verdict is `rule(question)`; it notes what it is asked, and fails where `fault` says a status."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule = rule
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.fault: Callable[[int], int] = lambda number: 0
        lock = threading.Lock()
        mine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                question = body["messages"][-1]["content"]
                with lock:
                    number = len(mine.asked)
                    mine.asked.append(question)
                    mine.keys.append(self.headers.get("authorization") or "")
                status = mine.fault(number)
                text = mine.rule(question)
                reply: dict[str, Any] = {"error": {"message": "made by the test"}}
                if not status:
                    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
                    reply = {
                        "id": "x",
                        "object": "chat.completion",
                        "created": 1,
                        "model": "m",
                        "choices": [choice],
                        "usage": usage,
                    }
                data = json.dumps(reply).encode()
                self.send_response(status or 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def request(self, name: str | Path, **more: Any) -> dict[str, Any]:
        """Fields of a request that asks this judge."""
        endpoint = {"base_url": self.url, "model": "judge-1", "api_key_env": "TEST_JUDGE_KEY", "concurrency": 3}
        return {"judge": find_judge(str(name)).to_json(), "endpoint": {**endpoint, **more}}
