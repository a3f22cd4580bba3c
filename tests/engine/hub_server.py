"""A small hub on this machine: the endpoints of the Hugging Face hub that an upload uses, over plain HTTP, with what it was sent."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

OID = "0" * 39 + "1"


@dataclass
class Hub:
    """What lies in it.

    Attributes:
        url: Its address, for HF_ENDPOINT.
        tokens: Those that may write.
        files: Repository -> path -> bytes.
        private: Repository -> whether it is private.
        asked: Method and path of every request, with the token it came with.
        fails: Status that the commit answers with; 0 for none.
    """

    url: str = ""
    tokens: set[str] = field(default_factory=set)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    fails: int = 0


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that runs until the block ends; large binary files go through LFS, the rest through the commit."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Says nothing."""

        def do_GET(self) -> None:
            self._answered(lambda path, _: self._info(path))

        def do_POST(self) -> None:
            self._answered(self._posted)

        def do_PUT(self) -> None:
            self._answered(self._put)

        def _answered(self, work: Any) -> None:
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            state.asked.append((self.command, path, token))
            status, data = work(path, body)
            if path.startswith("/api") and path != "/api/validate-yaml" and token not in state.tokens:
                status, data = 403, {"error": "Forbidden"}
            text = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _info(self, path: str) -> tuple[int, Any]:
            repo = path.removeprefix("/api/models/").removesuffix("/revision/main")
            if repo not in state.files:
                return 404, {"error": "Repository not found"}
            return 200, {"id": repo, "private": state.private[repo], "siblings": [], "sha": OID, "tags": []}

        def _posted(self, path: str, body: bytes) -> tuple[int, Any]:
            if path == "/api/validate-yaml":
                return 200, {"errors": [], "warnings": []}
            if path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}"
                address = {"url": f"{state.url}/{repo}", "name": repo}
                if repo in state.files:
                    return 409, {"error": "You already created this model repo", **address}
                state.files[repo] = {}
                state.private[repo] = asked.get("visibility") == "private" or asked.get("private") is True
                return 200, address
            if "/preupload/" in path:
                files = json.loads(body)["files"]
                modes = []
                for path in (f["path"] for f in files):
                    mode = "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"
                    modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
                return 200, {"files": modes}
            if path.endswith("/objects/batch"):
                objects = [
                    {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{state.url}/lfs/{o['oid']}"}}}
                    for o in json.loads(body)["objects"]
                ]
                return 200, {"transfer": "basic", "objects": objects}
            return self._committed(path, body)

        def _put(self, path: str, body: bytes) -> tuple[int, Any]:
            oid = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != oid:
                return 400, {"error": "another digest"}
            state.objects[oid] = body
            return 200, {}

        def _committed(self, path: str, body: bytes) -> tuple[int, Any]:
            if state.fails:
                return state.fails, {"error": "the hub has a bad day"}
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    state.files[repo][value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    state.files[repo][value["path"]] = state.objects[value["oid"]]
            return 200, {"commitUrl": f"{state.url}/{repo}/commit/{OID}", "commitOid": OID, "success": True}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
