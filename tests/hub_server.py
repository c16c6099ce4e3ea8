"""A hub of Hugging Face small enough for a test: the endpoints that pushing and pulling need."""

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
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Hub:
    """What the server holds: `repos[name][path]` is a file's content."""

    endpoint: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def commit_of(self, name: str) -> str:
        files = sorted(self.repos[name].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve a hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self.answer(b"")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def answer(self, body: bytes) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            writing = self.command == "POST" and not path.startswith("api/validate-yaml")
            if writing and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.send(401, {"error": "Invalid username or password."})
            parts = path.split("/")
            if path == "api/validate-yaml":
                return self.send(200, {"errors": [], "warnings": []})
            if path == "api/repos/create":
                asked = json.loads(body)
                owner = asked.get("organization") or "me"
                name = asked["name"] if "/" in asked["name"] else f"{owner}/{asked['name']}"
                if name in hub.repos:
                    return self.send(
                        409,
                        {
                            "error": "You already created this dataset repo",
                            "url": f"{hub.endpoint}/datasets/{name}",
                        },
                    )
                hub.repos[name] = {".gitattributes": b""}
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
                return self.send(200, {"url": f"{hub.endpoint}/datasets/{name}"})
            if parts[:2] == ["api", "datasets"]:
                return self.dataset("/".join(parts[2:4]), parts[4:], body)
            if parts[0] == "datasets" and parts[3] == "resolve":
                return self.resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
            return self.send(404, {"error": f"no endpoint {path}"})

        def dataset(self, name: str, rest: list[str], body: bytes) -> None:
            files = hub.repos.get(name)
            if files is None:
                headers = {"X-Error-Code": "RepoNotFound"}
                return self.send(404, {"error": "Repository not found"}, headers)
            sha = hub.commit_of(name)
            if rest and rest[-1] not in ("main", sha):
                headers = {"X-Error-Code": "RevisionNotFound"}
                return self.send(404, {"error": "Invalid rev id"}, headers)
            kind = rest[0] if rest else "revision"
            if kind == "preupload":
                asked = json.loads(body)["files"]
                modes = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in asked
                ]
                return self.send(200, {"files": modes})
            if kind == "commit":
                self.commit(files, body)
                return self.send(
                    200,
                    {
                        "success": True,
                        "commitUrl": f"{hub.endpoint}/datasets/{name}/commit/{hub.commit_of(name)}",
                        "commitOid": hub.commit_of(name),
                    },
                )
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
                for path, content in sorted(files.items())
            ]
            if kind == "tree":
                return self.send(200, entries)
            return self.send(
                200,
                {
                    "_id": "1",
                    "id": name,
                    "sha": sha,
                    "private": name in hub.private,
                    "tags": [],
                    "siblings": [
                        {"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]}
                        for e in entries
                    ],
                },
            )

        def commit(self, files: dict[str, bytes], body: bytes) -> None:
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    value = item["value"]
                    assert value["encoding"] == "base64"
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "deletedFile":
                    del files[item["value"]["path"]]

        def resolve(self, name: str, revision: str, path: str) -> None:
            content = hub.repos[name].get(path)
            if content is None:
                headers = {"X-Error-Code": "EntryNotFound"}
                return self.send(404, {"error": "Entry not found"}, headers)
            headers = {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": hub.commit_of(name)}
            return self.send_bytes(200, content, headers)

        def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            more = {"Content-Type": "application/json", **(headers or {})}
            if isinstance(value, dict) and "error" in value:
                more["X-Error-Message"] = value["error"]
            self.send_bytes(status, json.dumps(value).encode(), more)

        def send_bytes(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


def _blob(content: bytes) -> str:
    """Return the name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
