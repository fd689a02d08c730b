"""A proxy on loopback that makes the faults of networks and servers: at given rates, the same for the same seed."""

from __future__ import annotations

import collections
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urlsplit

from zml.testing.servers.loopback import Handler, Loopback

_PIECE = 256 << 10
_HOP = ("connection", "keep-alive", "transfer-encoding", "proxy-connection")


class Faults(Loopback):
    """The proxy, while it runs."""

    def __init__(
        self,
        upstream: str,
        seed: int,
        rates: Mapping[str, float],
        retry_after: str,
        seconds: float,
        only: Callable[[str, str], bool],
    ) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        """How often each fault was made, of "requests" in all."""
        self.requests: list[str] = []
        """Each as `GET /a.bin bytes=0-99`; "-" is for no range."""
        self.sent = 0
        """Bytes of bodies that were sent to clients."""
        self.dead = False
        """Set it, and each connection is reset from then on."""
        self.upstream = urlsplit(upstream)
        self.retry_after = retry_after
        self.seconds = seconds
        self._seed = seed
        self._rates = rates
        self._only = only
        self._lock = threading.Lock()
        super().__init__(_Handler)
        self.url += self.upstream.path
        """In place of the upstream's."""

    def draw(self, method: str, target: str, wanted: str) -> tuple[str, random.Random]:
        """The fault of a request, "" for none. It depends on the seed and on what was asked, not on other requests."""
        line = f"{method} {target} {wanted}"
        with self._lock:
            times = self.requests.count(line)
            self.requests.append(line)
            self.counts["requests"] += 1
            rng = random.Random(f"{self._seed} {line} {times}")
            kind = ""
            if self._only(method, target):
                at = rng.random()
                for name, rate in self._rates.items():
                    if 0 <= at < rate:
                        kind = name
                        self.counts[name] += 1
                    at -= rate
        return kind, rng

    def count_sent(self, count: int) -> None:
        """Notes bytes of a body."""
        with self._lock:
            self.sent += count


@contextlib.contextmanager
def faults(
    upstream: str,
    *,
    seed: int = 0,
    cut: float = 0.0,
    truncate: float = 0.0,
    busy: float = 0.0,
    error: float = 0.0,
    wrong: float = 0.0,
    whole: float = 0.0,
    corrupt: float = 0.0,
    changed: float = 0.0,
    delay: float = 0.0,
    stall: float = 0.0,
    retry_after: str = "0",
    seconds: float = 0.2,
    only: Callable[[str, str], bool] = lambda method, target: True,
) -> Iterator[Faults]:
    """Puts itself before an http server. Each rate is a part of the requests; together they are at most 1.

    `cut`: reset before or within the body. `truncate`: the body ends early, half of the time with a Content-Length that
    says so. `busy`: 429 with `retry_after`, or 503. `error`: 500. `wrong`: another range, which it names. `whole`: the
    whole file in place of a range. `corrupt`: one byte is another. `changed`: another ETag. `delay`: `seconds` before
    the answer. `stall`: nothing more after half of the body. `only` says which requests (method, target) may have any.
    """
    rates = {
        "cut": cut, "truncate": truncate, "busy": busy, "error": error, "wrong": wrong, "whole": whole,
        "corrupt": corrupt, "changed": changed, "delay": delay, "stall": stall,
    }  # fmt: skip
    proxy = Faults(upstream, seed, rates, retry_after, seconds, only)
    try:
        yield proxy
    finally:
        proxy.close()


class _Handler(Handler):
    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server.owner, Faults)
        self._faults = self.server.owner
        at = self._faults.upstream
        self._upstream = HTTPConnection(at.hostname or "", at.port or 80)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def answer(self) -> None:
        if self._faults.dead:
            return self._reset()
        kind, rng = self._faults.draw(self.command, self.path, self.headers.get("Range", "-"))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if kind == "delay":
            self._faults.ended.wait(self._faults.seconds)
        if kind == "cut" and rng.random() < 0.3:
            return self._reset()
        if kind in ("busy", "error"):
            limited = kind == "busy" and rng.random() < 0.5
            headers = {"Retry-After": self._faults.retry_after} if limited else {}
            return self._refuse(429 if limited else 503 if kind == "busy" else 500, headers)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        if kind == "wrong":
            headers = _shifted(headers, rng)
        elif kind == "whole":
            headers = {k: v for k, v in headers.items() if k.lower() != "range"}
        try:
            response = self._ask(headers, body)
        except (OSError, HTTPException):
            return self._refuse(502, {})
        with response:
            self._forward(response, kind, rng)

    def _ask(self, headers: dict[str, str], body: bytes | None) -> HTTPResponse:
        try:
            self._upstream.request(self.command, self.path, body, headers)
            return self._upstream.getresponse()
        except (OSError, HTTPException):
            # The server may have closed a connection that was idle.
            self._upstream.close()
            self._upstream.request(self.command, self.path, body, headers)
            return self._upstream.getresponse()

    def _forward(self, response: HTTPResponse, kind: str, rng: random.Random) -> None:
        empty = self.command == "HEAD" or response.status in (204, 304)
        headers = {k: v for k, v in response.getheaders() if k.lower() not in _HOP}
        length = response.length
        content = None
        if not empty and length is None:
            content = response.read()
            length = len(content)
            headers["Content-Length"] = str(length)
        end = length or 0
        if kind in ("cut", "truncate", "stall"):
            end = rng.randrange(end) if end else 0
        if kind == "truncate" and rng.random() < 0.5 and not empty:
            headers["Content-Length"] = str(end)
        if kind == "changed":
            headers = {
                k: f'"{rng.random()}"' if k.lower() == "etag" else v for k, v in headers.items()
            }
        flip = rng.randrange(end) if kind == "corrupt" and end else -1
        self.send_response_only(response.status, response.reason)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        done = 0
        while not empty and done < end:
            read = content if content is not None else response.read(min(_PIECE, end - done))
            piece = bytearray(read[: end - done])
            if not piece:
                break
            if done <= flip < done + len(piece):
                piece[flip - done] ^= 1 << rng.randrange(8)
            self.wfile.write(piece)
            self._faults.count_sent(len(piece))
            done += len(piece)
        if kind == "stall":
            self._faults.ended.wait(60)
        if kind == "cut":
            self._reset()
        elif done < (length or 0) and not empty:
            self.close_connection = True
            self._upstream.close()

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            # Closing it sends a reset, in place of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self._upstream.close()


def _shifted(headers: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Asks for a range that begins some bytes before."""
    result = dict(headers)
    for key, value in headers.items():
        if key.lower() == "range" and value.startswith("bytes="):
            first, _, last = value.removeprefix("bytes=").partition("-")
            result[key] = f"bytes={max(0, int(first or 0) - rng.randrange(1, 9))}-{last}"
    return result
