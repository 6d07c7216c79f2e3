"""A model hub of one process on this machine: it speaks the calls of an upload and keeps them."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """What was asked, and what every branch holds after its commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.tokens: set[str | None] = set()
        self.made: dict[str, Any] = {}
        self.objects: dict[str, bytes] = {}
        self.branches: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.refuse: tuple[str, int] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *words: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        self.answer(self.body())

    def do_PUT(self) -> None:
        self.answer(self.body())

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        self.server.calls.append(f"{self.command} {path}")
        if self.server.refuse and self.server.refuse[0] in path:
            return self.say({"error": "no room left"}, self.server.refuse[1])
        if path == "/api/repos/create":
            self.server.tokens.add(self.headers.get("Authorization"))
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.made[name] = asked
            return self.say({"url": f"{self.server.address}/{name}", "name": name})
        if "/branch/" in path:
            return self.say({})
        if path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        if "/preupload/" in path:
            return self.say({"files": [mode(file) for file in json.loads(body)["files"]]})
        if path.endswith("/objects/batch"):
            objects = [self.action(item) for item in json.loads(body)["objects"]]
            return self.say({"transfer": "basic", "objects": objects})
        if path.startswith("/store/"):
            self.server.objects[hashlib.sha256(body).hexdigest()] = body
            return self.say({})
        if "/commit/" in path:
            return self.commit(path.removeprefix("/api/models/"), body)
        return self.say({"error": f"what is {path}?"}, 404)

    def action(self, item: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.server.address}/store/{item['oid']}"}
        return {**item, "actions": {"upload": upload}}

    def commit(self, place: str, body: bytes) -> None:
        name, _, branch = place.partition("/commit/")
        files = self.server.branches.setdefault(branch, {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.server.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.objects[value["oid"]]
        oid, address = "0" * 40, f"{self.server.address}/{name}/commit"
        self.say({"success": True, "commitOid": oid, "commitUrl": f"{address}/{'0' * 40}"})

    def say(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status >= 400:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        self.wfile.write(text)


def mode(file: dict[str, Any]) -> dict[str, Any]:
    """Weights go through large file storage, everything else into the commit."""
    large = file["path"].endswith(".safetensors")
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular"} | {
        "shouldIgnore": False
    }


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
