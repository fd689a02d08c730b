"""An http server on loopback, in threads of this process: nothing of it is left when a test ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Loopback:
    """A server that is running, until `close`. What it does is in its Handler."""

    def __init__(self, handler: type[Handler]) -> None:
        self.ended = threading.Event()
        """For handlers that wait."""
        self.connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.owner = self
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


class _Server(ThreadingHTTPServer):
    # The threads are waited for.
    daemon_threads = False
    request_queue_size = 128
    owner: Loopback

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no error."""


class Handler(BaseHTTPRequestHandler):
    """Of one connection. Every method of a request is `answer`'s."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def answer(self) -> None:
        """Takes the request and answers it."""
        raise NotImplementedError

    def setup(self) -> None:
        """The connection is one to end."""
        super().setup()
        self.server.owner.connections.add(self.connection)

    def finish(self) -> None:
        """Its end."""
        self.server.owner.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests look at the requests, not at logs."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)
