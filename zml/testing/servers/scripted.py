"""A server whose answers a test writes: for what no real server can be brought to say."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    client: int
    """The port it came from: the same one for a connection that is used again."""


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    """Content-Length is added, unless Transfer-Encoding is there."""
    stalls: bool = False
    """Nothing follows, and the connection stays open."""
    closes: bool = False
    """The connection is closed without a word of it in the headers."""


class Scripted:
    """A server that is running."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.ended = threading.Event()
        self.connections: set[socket.socket] = set()
        self.answer = answer
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.scripted = self
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Ends every connection and thread."""
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()


@contextlib.contextmanager
def scripted(answer: Callable[[Request], Answer]) -> Iterator[Scripted]:
    """Serves what `answer` says."""
    server = Scripted(answer)
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128
    scripted: Scripted

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.scripted.connections.add(self.connection)

    def finish(self) -> None:
        self.server.scripted.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests look at the requests."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        scripted = self.server.scripted
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body, self.client_address[1])
        scripted.requests.append(request)
        answer = scripted.answer(request)
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        names = {name.lower() for name in answer.headers}
        if not names & {"content-length", "transfer-encoding"}:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        if answer.stalls:
            scripted.ended.wait(60)
        if answer.stalls or answer.closes:
            self.close_connection = True
