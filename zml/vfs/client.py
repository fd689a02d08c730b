"""HttpClient: requests that are tried again, and replies whose bodies are read straight into the caller's memory."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from types import TracebackType
from urllib.parse import quote, urljoin, urlsplit

from zml.errors import AccessError, NotFoundError, ReadError, UsageError
from zml.vfs.base import Cancellation, Options
from zml.vfs.connections import Connection, Origin, Pool
from zml.vfs.gate import Gate
from zml.vfs.patience import Patience, TryAgainError, asked_to_wait
from zml.vfs.urls import redacted

_REDIRECTS = 10
_DRAINED = 64 << 10
# Meant for one origin alone.
_SECRET = ("authorization", "cookie", "proxy-authorization", "x-amz-security-token")
# Said by servers that may well answer another time.
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529})
_BUSY = (429, 503)
_UNSENDABLE = re.compile(r"[\0\r\n]|[^\x00-\xff]")
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Response:
    """What a server answered, with the whole body."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    url: str
    """Where redirects led to."""


class Reply:
    """What a server answers, while its body is still to be read. For one thread, and for a `with`."""

    def __init__(self, client: HttpClient, connection: Connection, gate: Gate, url: str) -> None:
        self.url = url
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._client = client
        self._connection = connection
        self._gate: Gate | None = gate
        self._response: HTTPResponse | None = None

    @property
    def length(self) -> int | None:
        """Bytes of the body that are to come; None where the server does not say."""
        return self._response.length if self._response is not None else 0

    def begin(self, response: HTTPResponse) -> None:
        """Takes the headers."""
        self._response = response
        self.status = response.status
        headers: dict[str, str] = {}
        for key, value in response.getheaders():
            name = key.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.headers = headers

    @contextlib.contextmanager
    def ended_by(self, cancellation: Cancellation) -> Iterator[None]:
        """Lets a cancellation end what the block blocks in. Raises CancelledError."""
        with cancellation.interrupting(self._connection.abort):
            yield

    def read_into(self, buffer: memoryview) -> int:
        """Some bytes of the body, as many as are there; 0 at its end. Raises TryAgainError, also for an early end."""
        response = self._response
        assert response is not None
        if not len(buffer) or response.fp is None:
            return 0
        try:
            if response.chunked or response.length is None:
                return response.readinto(buffer)
            if response.length == 0:
                return 0
            # Not HTTPResponse.readinto: it returns when the whole buffer is full, and forgets what came before a reset.
            count = response.fp.readinto1(buffer[: response.length])
        except (OSError, HTTPException, ValueError) as error:
            raise TryAgainError(f"the connection broke: {_words(error)}") from error
        if count == 0:
            raise TryAgainError(f"the connection ended {response.length} bytes too early")
        response.length -= count
        return count

    def read(self, limit: int) -> bytes:
        """The rest of the body. Raises ReadError beyond `limit`, and TryAgainError."""
        result = bytearray()
        piece = bytearray(min(limit + 1, self.length or 0) or 64 << 10)
        while count := self.read_into(memoryview(piece)):
            result += piece[:count]
            if len(result) > limit:
                raise ReadError(f"{redacted(self.url)}: more than {limit} bytes were answered")
        return bytes(result)

    def leave_gate(self) -> None:
        """No longer counts as one of the host's requests: for streams that stay open between reads."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave()

    def close(self) -> None:
        """Gives the connection back if the body was read up, or closes it."""
        response, self._response = self._response, None
        done = False
        if response is not None:
            if response.length == 0 and not response.chunked and not response.will_close:
                with contextlib.suppress(OSError, HTTPException):
                    response.read()
            done = response.isclosed() and not response.will_close
            # A 204 has no body (RFC 9110, 15.3.5): where a length is sent, one may follow, and be taken for an answer.
            if response.status == 204 and response.headers.get("content-length", "0") != "0":
                done = False
            response.close()
        if done:
            self._client.pool.give(self._connection)
        else:
            self._client.pool.drop(self._connection)
        self.leave_gate()

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._gate is not None and self.status < 400:
            self._gate.well()
        self.close()


class HttpClient:
    """Web servers, for one file system: its connections, gates and patience. Any thread may call."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pool = Pool()
        self._gates: dict[Origin, Gate] = {}
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] = _NOTHING,
        body: bytes = b"",
        *,
        what: str,
        cancellation: Cancellation | None = None,
        follow: bool = True,
        limit: int = 256 << 20,
        accept: Collection[int] = (),
    ) -> Response:
        """A whole response, tried again as Options say. `what` names it in errors; credentials in URLs are left out.

        `follow`: redirects are followed; else they are responses. `accept`: statuses of failure that the caller wants
        as responses. Raises NotFoundError (404, 410), AccessError (401, 403), ReadError, CancelledError.
        """
        patience = Patience(self.options, what, cancellation)
        while True:
            try:
                with self.send(method, url, headers, body, patience, follow=follow) as reply:
                    wanted = reply.status in accept
                    if not wanted:
                        again_if_temporary(reply, patience)
                    with reply.ended_by(patience.cancellation):
                        content = reply.read(limit)
                    response = Response(reply.status, reply.headers, content, reply.url)
                    if not wanted:
                        raise_for_status(response, patience.what)
                    return response
            except TryAgainError as failure:
                patience.again(failure)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        patience: Patience,
        *,
        follow: bool = True,
    ) -> Reply:
        """One try: a reply of any status, after redirects. Raises TryAgainError, ReadError, CancelledError."""
        seen = set()
        for _ in range(_REDIRECTS + 1):
            reply = self._send(method, url, headers, body, patience)
            location = reply.headers.get("location")
            if not follow or reply.status not in (301, 302, 303, 307, 308) or not location:
                return reply
            with reply, reply.ended_by(patience.cancellation), _draining():
                reply.read(_DRAINED)
            if reply.status == 303 or (reply.status < 303 and method == "POST"):
                method, body = "HEAD" if method == "HEAD" else "GET", b""
            seen.add(url)
            # Headers are decoded as latin-1, whatever they are.
            with contextlib.suppress(UnicodeError):
                location = location.encode("latin-1").decode()
            previous = url
            try:
                url = urljoin(url, location)
            except ValueError:
                raise ReadError(f"{patience.what}: redirected to what is no URL") from None
            if url in seen:
                raise ReadError(f"{patience.what}: its redirects go in a circle: {redacted(url)}")
            headers = _redirected(headers, previous, url, patience.what)
        raise ReadError(f"{patience.what}: more than {_REDIRECTS} redirects")

    def gate(self, url: str) -> Gate:
        """The gate of a URL's host."""
        origin = Origin.of(url)
        with self._lock:
            if origin not in self._gates:
                self._gates[origin] = Gate(self.options.streams)
            return self._gates[origin]

    def close(self) -> None:
        """Closes the connections; what is being read ends with an error."""
        self.pool.close()

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, patience: Patience
    ) -> Reply:
        gate, target = self.gate(url), request_target(url)
        for name, value in headers.items():
            if _UNSENDABLE.search(value):
                raise UsageError(
                    f"{patience.what}: the header {name} has a line break, or a character that none may have: "
                    "is there one in a token, a key or a password?"
                )
        asked = time.monotonic()
        since = gate.enter(patience.cancellation, patience.left)
        patience.forgive(since - asked)
        headers = {"User-Agent": "zml", "Accept": "*/*"} | dict(headers)
        fresh = False
        while True:
            try:
                connection, used = self.pool.take(Origin.of(url), fresh)
            except BaseException:
                gate.leave()
                raise
            reply = Reply(self, connection, gate, url)
            try:
                with reply.ended_by(patience.cancellation):
                    if not used:
                        connection.open(min(self.options.connect_timeout, patience.left))
                    timeout = min(self.options.read_timeout, patience.left)
                    reply.begin(connection.send(method, target, headers, body, timeout))
                if reply.status in _BUSY:
                    pause = asked_to_wait(reply.headers)
                    # A limit of rates is for all who ask; of an overload nobody knows when it ends.
                    gate.busy(since, pause or 0.0 if reply.status == 429 else 0.0)
                return reply
            except (OSError, HTTPException, ValueError) as error:
                self.pool.drop(connection)
                final = self.pool.closed or patience.cancellation.cancelled
                if final or not used or isinstance(error, TimeoutError):
                    gate.leave()
                    if self.pool.closed:
                        raise ReadError(f"{patience.what}: the connections were closed") from error
                    raise _failure(error, url, patience) from error
                fresh = True  # the server had closed an idle connection; the others are likely to be as old
            except BaseException:
                self.pool.drop(connection)
                gate.leave()
                raise


def request_target(url: str) -> str:
    """The path and query to ask for; what must not stand in a request is quoted, a "%" without two digits included."""
    parts = urlsplit(url)
    path = re.sub(r"%(?![0-9a-fA-F]{2})", "%25", parts.path or "/")
    target = quote(path, safe="/%:@!$&'()*+,;=~")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?[]{}|^")
    return target


def again_if_temporary(reply: Reply, patience: Patience) -> None:
    """Raises TryAgainError for a status that another try may change."""
    if reply.status in _TEMPORARY:
        with reply.ended_by(patience.cancellation), _draining():
            reply.read(_DRAINED)
        wait = asked_to_wait(reply.headers)
        raise TryAgainError(f"the server answered {reply.status}", wait)


def raise_for_status(response: Response, what: str) -> None:
    """Raises what a status of failure says: NotFoundError, AccessError, ReadError."""
    status = response.status
    if status < 400:
        return
    said = _said(response)
    if status in (404, 410):
        raise NotFoundError(f"{what}: there is no such file or folder ({status}){said}")
    if status == 401:
        raise AccessError(
            f"{what}: the server asks for credentials (401), or refused those given{said}"
        )
    if status == 403:
        raise AccessError(f"{what}: access is refused (403){said}")
    if status == 407:
        said += (
            ": give the proxy's user and password in HTTP_PROXY, as http://user:password@host:port"
        )
    raise ReadError(f"{what}: the server answered {status}{said}")


def _draining() -> contextlib.suppress:
    """A connection can be used again if its reply is read up; if that fails, it is closed."""
    return contextlib.suppress(TryAgainError, ReadError)


def _said(response: Response) -> str:
    """The message in a response of failure, as stores and hubs send it."""
    found = response.headers.get("x-error-message")
    if not found:
        text = response.body[:4096].decode("utf-8", "replace")
        match = re.search(r'<Message>([^<]+)<|"(?:message|error)"\s*:\s*"([^"]+)"', text)
        found = match and (match[1] or match[2])
    return f": {redacted(found)[:300]}" if found else ""


def _redirected(
    headers: Mapping[str, str], previous: str, url: str, what: str
) -> Mapping[str, str]:
    """The headers that go along to where a redirect leads."""
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise ReadError(f"{what}: redirected to {redacted(url)}, which is neither http nor https")
    before = Origin.of(previous)
    try:
        after = Origin.of(url)
    except UsageError as error:
        raise ReadError(f"{what}: redirected: {error}") from None
    if before == after:
        return headers
    if before.scheme == "https" and after.scheme == "http":
        raise ReadError(f"{what}: redirected from https to {redacted(url)}, which is not secure")
    return {k: v for k, v in headers.items() if k.lower() not in (*_SECRET, "host")}


def _failure(error: Exception, url: str, patience: Patience) -> Exception:
    """What a connection that failed means: another try, or an error that no other try would change."""
    patience.cancellation.check()
    host = Origin.of(url).host
    if isinstance(error, ssl.SSLCertVerificationError):
        return ReadError(
            f"{patience.what}: the certificate of {host} is not trusted: {error.verify_message}. "
            "If its authority is your own, name its file in SSL_CERT_FILE"
        )
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return ReadError(f"{patience.what}: {host} does not speak TLS on this port: is it http://?")
    if isinstance(error, socket.gaierror) and error.errno in (
        socket.EAI_NONAME,
        getattr(socket, "EAI_NODATA", socket.EAI_NONAME),
    ):
        return ReadError(f"{patience.what}: there is no host {host}: {error.strerror}")
    return TryAgainError(f"no answer from {host}: {_words(error)}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
