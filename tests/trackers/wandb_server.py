"""A server that speaks as much of Weights & Biases as its client needs to begin, fill, resume and end a run."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

WANDB_CONFIG = json.dumps({"t": {"1": []}})
"""What tells the client that a run was begun before."""
KEY = "0123456789abcdef" * 2 + "01234567"
"""A key as the client wants one."""


class Server(http.server.ThreadingHTTPServer):
    """Keeps what was sent.

    Attributes:
        rows: History of each run, by line number.
        summaries: Last summary of each run.
        configs: Last config of each run.
        bodies: Every request as it came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.bodies: list[bytes] = []
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error."""

    def points(self, run: str, metric: str) -> list[tuple[int, float]]:
        """`(step, value)` of every row that has `metric`, in the order of the rows."""
        with self.lock:
            rows = [row for _, row in sorted(self.rows.get(run, {}).items())]
        return [(row["_step"], row[metric]) for row in rows if metric in row]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self._say({})

    def do_GET(self) -> None:
        self._say({})

    def do_PUT(self) -> None:
        self._body()
        self._say({})

    def do_POST(self) -> None:
        body = self._body()
        with self.server.lock:
            if self.path == "/graphql":
                self._say({"data": self._graphql(body["operationName"], body.get("variables") or {})})
            else:
                if "file_stream" in self.path:
                    self._stream(self.path.split("/")[-2], body.get("files") or {})
                self._say({})

    def _graphql(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        owner = {"id": "e", "name": "someone"}
        project = {"id": "p", "name": given.get("project") or "p", "entity": owner}
        if name == "Viewer":
            viewer = {"id": "u", "entity": "someone", "username": "someone", "email": "", "flags": "{}"}
            return {"viewer": {**viewer, "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": self._bucket(given["name"])}}
        if name == "UpsertBucket":
            run = given.get("name") or ""
            new = run not in self.server.rows
            self.server.rows.setdefault(run, {})
            if given.get("config"):
                self.server.configs.setdefault(run, {}).update(json.loads(given["config"]))
            if given.get("summaryMetrics"):
                self.server.summaries[run] = json.loads(given["summaryMetrics"])
            bucket = {"id": f"id-{run}", "name": run, "displayName": run, "description": None, "config": "{}"}
            bucket |= {"sweepName": None, "project": project, "historyLineCount": len(self.server.rows[run])}
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.server.url}/upload/{f}"} for f in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _bucket(self, run: str) -> dict[str, Any] | None:
        rows = self.server.rows.get(run)
        if rows is None:
            return None
        tail = [json.dumps(row) for _, row in sorted(rows.items())[-1:]]
        bucket = {"id": f"id-{run}", "name": run, "displayName": run, "logLineCount": 0, "eventsLineCount": 0}
        bucket |= {"historyLineCount": len(rows), "historyTail": json.dumps(tail), "eventsTail": "[]"}
        summary = json.dumps(self.server.summaries.get(run, {}))
        return {
            **bucket,
            "summaryMetrics": summary,
            "config": "{}",
            "tags": [],
            "notes": None,
            "wandbConfig": WANDB_CONFIG,
        }

    def _stream(self, run: str, files: dict[str, Any]) -> None:
        history = files.get("wandb-history.jsonl")
        if history:
            rows = self.server.rows.setdefault(run, {})
            for number, line in enumerate(history["content"], history["offset"]):
                rows[number] = json.loads(line)
        for line in (files.get("wandb-summary.json") or {}).get("content", []):
            self.server.summaries[run] = json.loads(line)

    def _body(self) -> dict[str, Any]:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        self.server.bodies.append(raw)
        with contextlib.suppress(ValueError):
            found = json.loads(raw)
            return found if isinstance(found, dict) else {}
        return {}

    def _say(self, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that runs within the `with`."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
