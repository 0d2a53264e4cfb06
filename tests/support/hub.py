"""FakeHub: a small server on loopback that speaks the Hugging Face hub's protocol, with faults of one's choice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "c0ffee" + "0" * 34
# Suffixes that lie in LFS there.
_LFS = {".safetensors", ".bin", ".model", ".onnx"}


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Repository:
    """The files of one repository, and what is wrong with it."""

    files: dict[str, bytes]
    commit: str = COMMIT
    status: int = 200  # of everything but a good answer
    error_code: str | None = None
    token: str | None = None  # gated: whoever does not send it gets 403
    cut: dict[str, list[int]] = field(default_factory=dict)  # file -> after so many bytes the connection breaks, time by time
    lies: dict[str, int] = field(default_factory=dict)  # file -> how often its content is not what its checksum says
    knows_ranges: bool = True
    gate: threading.Event | None = None  # files in LFS come when it is set, but for their first bytes


@dataclass
class FakeHub:
    """Repositories by id; `asked` is every request, in order."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    def add(self, hub_id: str, files: dict[str, bytes] | Path, **faults: Any) -> Repository:
        """A repository of these files, or of those in a folder."""
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        self.repositories[hub_id] = Repository(files, **faults)
        return self.repositories[hub_id]

    def downloads(self, name: str) -> list[Request]:
        """Requests for the content of a file."""
        return [request for request in self.asked if request.method == "GET" and request.path.endswith(f"/{name}")]


def model_files(weights: bytes = b"w" * 300_000) -> dict[str, bytes]:
    """What a sentence-transformers model's repository holds, and much that nobody here needs."""
    modules = [{"path": ""}, {"path": "1_Pooling"}]
    return {
        "modules.json": json.dumps(modules).encode(),
        "config.json": b'{"model_type": "bert"}',
        "tokenizer.json": b"{}",
        "1_Pooling/config.json": b"{}",
        "model.safetensors": weights,
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"onnx",
        "openvino/openvino_model.bin": b"openvino",
        "tf_model.h5": b"tf",
        "model.fp16.safetensors": b"half",
        "checkpoint-5/model.safetensors": b"old",
        "logo.png": b"png",
    }


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub on a free port, gone afterwards."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
            parts = path.strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            found = hub.repositories.get("/".join(parts[2:4] if is_api else parts[:2]))
            if found is None:
                return self._refuse(404, "RepoNotFound")
            if found.status != 200:
                return self._refuse(found.status, found.error_code)
            if found.token is not None and self.headers.get("Authorization") != f"Bearer {found.token}":
                return self._refuse(403, "GatedRepo")
            revision = (parts[5] if len(parts) > 5 else "main") if is_api else parts[3]
            if revision not in ("main", found.commit):
                return self._refuse(404, "RevisionNotFound")
            if not is_api:
                return self._send(found, "/".join(parts[4:]))
            return self._list(found) if parts[4:5] == ["tree"] else self._describe(found)

        do_HEAD = do_GET  # noqa: N815

        def _describe(self, found: Repository) -> None:
            siblings = []
            for name, content in found.files.items():
                sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_id(content)}
                if Path(name).suffix in _LFS:
                    sibling["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 100}
                siblings.append(sibling)
            self._answer(200, json.dumps({"id": "x/y", "sha": found.commit, "siblings": siblings}).encode())

        def _list(self, found: Repository) -> None:
            """What snapshot_download asks for besides."""
            tree = []
            for name, content in found.files.items():
                entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_id(content)}
                if Path(name).suffix in _LFS:
                    entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
                tree.append(entry)
            self._answer(200, json.dumps(tree).encode())

        def _send(self, found: Repository, name: str) -> None:
            content = found.files.get(name)
            if content is None:
                return self._refuse(404, "EntryNotFound")
            if found.lies.get(name, 0) > 0:
                found.lies[name] -= 1
                content = b"x" * len(content)
            begin, asked = 0, self.headers.get("Range")
            if asked is not None and found.knows_ranges:
                begin = int(asked.removeprefix("bytes=").partition("-")[0])
            is_lfs = Path(name).suffix in _LFS
            etag = hashlib.sha256(found.files[name]).hexdigest() if is_lfs else git_id(found.files[name])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": found.commit}
            if is_lfs:
                headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            if begin:
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            rest, cut = content[begin:], found.cut.get(name) or [None]
            end = cut.pop(0)
            self.send_response(206 if begin else 200)
            for header, value in (headers | {"Content-Length": str(len(rest))}).items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "HEAD":
                return None
            if found.gate is not None and Path(name).suffix in _LFS:
                first = 0 if begin else 1000
                self.wfile.write(rest[:first])
                self.wfile.flush()
                found.gate.wait(30)
                rest = rest[first:]
            if end is None:
                self.wfile.write(rest)
            else:
                self.wfile.write(rest[:end])
                self.close_connection = True
            return None

        def _refuse(self, status: int, code: str | None) -> None:
            self._answer(status, b'{"error": "no"}', {} if code is None else {"X-Error-Code": code})

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ((headers or {}) | {"Content-Length": str(len(body)), "Content-Type": "application/json"}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...  # a client that hung up is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="fake hub")
    thread.start()
    try:
        yield hub
    finally:
        for repository in hub.repositories.values():
            if repository.gate is not None:
                repository.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def git_id(content: bytes) -> str:
    """Git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture(name="server")
def hub_server() -> Iterator[FakeHub]:
    """For a conftest to import."""
    with running_hub() as running:
        yield running
