"""A hub for tests: enough of Hugging Face's protocol for huggingface_hub, served on loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, and what was asked for.

    Attributes:
        repositories: Content by repository and file name.
        plain: Content by path, for addresses outside of repositories.
        large: Suffixes of files that are stored like large ones, with a SHA-256.
        cut: Names of files whose next transfer breaks off after half.
        wrong: Names of files that are served with other bytes than their checksum is of.
        gated: Repositories that ask for a permission.
        requests: ``(method, path, range)`` of every request.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    large: tuple[str, ...] = (".safetensors", ".bin", ".pt")
    cut: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""

    def asked(self, method: str, name: str) -> list[str | None]:
        """The ranges of all requests for a file."""
        return [where for kind, path, where in self.requests if kind == method and path.endswith(f"/{name}")]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serves ``hub`` on a free port of loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Range")))
            if self.path in hub.plain:
                self._send(hub.plain[self.path], {}, body)
                return
            repository, _, name = self.path.strip("/").partition("/resolve/")
            name = name.partition("/")[2]
            if repository in hub.gated:
                self._refuse(403, "GatedRepo")
            elif repository not in hub.repositories:
                self._refuse(401, "RepoNotFound")
            elif name not in hub.repositories[repository]:
                self._refuse(404, "EntryNotFound")
            else:
                content = hub.repositories[repository][name]
                self._send(content, self._headers(name, content), body)

        def _headers(self, name: str, content: bytes) -> dict[str, str]:
            if not name.endswith(hub.large):
                etag = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
                return {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
            etag = hashlib.sha256(content).hexdigest()
            size = str(len(content))
            return {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": size, "ETag": '"other"'}

        def _send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
            name = self.path.rsplit("/", 1)[-1]
            if body and name in hub.wrong:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for key, value in {**headers, "Content-Length": str(len(content) - start)}.items():
                self.send_header(key, value)
            self.end_headers()
            if body and name in hub.cut:
                hub.cut.discard(name)
                self.wfile.write(content[start : start + (len(content) - start) // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(content[start:])

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
