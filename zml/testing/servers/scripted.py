"""A server whose answers a test writes: for what no real server can be brought to say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from zml.testing.servers.loopback import Handler, Loopback


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


class Scripted(Loopback):
    """A server that is running."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.answer = answer
        super().__init__(_Handler)


@contextlib.contextmanager
def scripted(answer: Callable[[Request], Answer]) -> Iterator[Scripted]:
    """Serves what `answer` says."""
    server = Scripted(answer)
    try:
        yield server
    finally:
        server.close()


class _Handler(Handler):
    def answer(self) -> None:
        scripted = self.server.owner
        assert isinstance(scripted, Scripted)
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
