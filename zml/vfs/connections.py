"""Connections to web servers: kept alive, through proxies, over TLS; another thread can end them."""

from __future__ import annotations

import base64
import contextlib
import errno
import ipaddress
import os
import queue
import re
import select
import socket
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from zml.errors import ReadError, UsageError
from zml.vfs.patience import TryAgainError
from zml.vfs.urls import redacted
from zml.vfs.urls import scheme as scheme_of

CERTIFICATE = "ZML_HTTP_CERTIFICATE"
"""The environment's name of a client certificate: the path of a PEM file, which may hold its key."""
KEY = "ZML_HTTP_KEY"
"""The environment's name of the key of a client certificate, where it is in a file of its own."""

# An idle connection that is older was likely closed by the server.
_IDLE_SECONDS = 50.0
_IDLE_CONNECTIONS = 64
_PORTS = {"http": 80, "https": 443}
_NO_HOST = re.compile(r"[\x00-\x20\x7f]")
# Where systems keep the certificates of authorities (Debian, Fedora, RHEL, SUSE, Alpine): OpenSSL looks where those of
# the system are that it was built for.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


type _Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


class Origin(NamedTuple):
    """What connections are made to."""

    scheme: str
    host: str
    port: int

    @staticmethod
    def of(url: str) -> Origin:
        """The origin of an http or https URL. Raises UsageError."""
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
        except ValueError:
            # Neither the URL nor the error is shown: either may have a part of a password.
            raise UsageError(
                f"{scheme_of(url)}://...: is no URL: expected {scheme_of(url)}://[user:password@]host[:port]/path; "
                "is there a / or # in a user or password that should be %2F or %23?"
            ) from None
        if scheme in _PORTS and host and _NO_HOST.search(host):
            raise UsageError(f"{redacted(url)}: {host!r} is no name of a host")
        if scheme not in _PORTS or not host:
            raise UsageError(f"{redacted(url)}: expected http://host/... or https://host/...")
        return Origin(scheme, host, port or _PORTS[scheme])


class _Https(HTTPConnection):
    default_port = _PORTS["https"]


class Connection:
    """One connection. One thread at a time uses it; any may abort it."""

    def __init__(self, origin: Origin, context: ssl.SSLContext | None) -> None:
        self.origin = origin
        self.used = 0.0
        self._context = context
        self._proxy = proxy_of(origin)
        self._socket: socket.socket | None = None
        self._aborted = False
        kind = _Https if origin.scheme == "https" else HTTPConnection
        self._http = kind(origin.host, origin.port)
        self._http.auto_open = 0

    def open(self, timeout: float) -> None:
        """Connects, within so many seconds. Raises OSError, ReadError, TryAgainError."""
        until = time.monotonic() + timeout
        target = (self.origin.host, self.origin.port)
        if self._proxy is not None:
            target = (self._proxy.hostname or "", self._proxy.port or 80)
        self._connect(target, until)
        if self.origin.scheme == "https":
            if self._proxy is not None:
                self._tunnel(self._proxy)
            self._secure(until)
        self._http.sock = self._socket

    def send(
        self, method: str, target: str, headers: dict[str, str], body: bytes, timeout: float
    ) -> HTTPResponse:
        """A request; its response up to the headers. `target`: the path and query. Raises OSError, HTTPException."""
        assert self._socket is not None
        self._socket.settimeout(timeout)
        if self._proxy is not None and self.origin.scheme == "http":
            host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
            target = f"http://{host}:{self.origin.port}{target}"
            headers = headers | _proxy_credentials(self._proxy)
        self._http.request(method, target, body or None, headers)
        return self._http.getresponse()

    @property
    def is_stale(self) -> bool:
        """Whether an idle connection was closed by the other side, or is likely to be."""
        if self._aborted or self._socket is None or self._http.sock is None:
            return True
        if time.monotonic() - self.used > _IDLE_SECONDS:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Ends what another thread is blocked in. The connection is of no use afterwards."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):
                # Not the method of SSLSocket, which takes away what the other thread reads from.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self._http.close()
        if self._socket is not None:
            self._socket.close()

    def _connect(self, target: tuple[str, int], until: float) -> None:
        failure: OSError | None = None
        found = self._addresses(target, until)
        for index, (family, kind, protocol, _, address) in enumerate(found):
            share = (until - time.monotonic()) / (len(found) - index)
            try:
                self._socket = socket.socket(family, kind, protocol)
            except OSError as error:  # a system without IPv6
                failure = error
                continue
            try:
                self._connect_one(self._socket, address, share)
            except OSError as error:
                self._socket.close()
                failure = error
            else:
                self._socket.settimeout(max(0.05, until - time.monotonic()))
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return
        raise failure or OSError(f"{target[0]} has no address")

    def _addresses(self, target: tuple[str, int], until: float) -> Sequence[_Address]:
        """Asks the system in a thread of its own, for nothing can end its asking, which may take long."""
        result: queue.SimpleQueue[Sequence[_Address] | OSError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                result.put(socket.getaddrinfo(*target, type=socket.SOCK_STREAM))
            except UnicodeError as error:  # a part of the name is empty, or too long
                result.put(socket.gaierror(socket.EAI_NONAME, str(error)))
            except OSError as error:
                result.put(error)

        threading.Thread(target=ask, daemon=True).start()
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                found = result.get(timeout=0.1)
                if isinstance(found, OSError):
                    raise found
                return found
            if self._aborted:
                raise OSError("aborted")
        raise TimeoutError(f"the address of {target[0]} was not found in time")

    def _connect_one(self, sock: socket.socket, address: Any, seconds: float) -> None:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS, errno.EINTR):
            raise OSError(code, os.strerror(code))
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        # In slices: not every system lets `abort` end a connection that is not made yet.
        while not poll.poll(100):
            if self._aborted:
                raise OSError("aborted")
            if time.monotonic() >= until:
                raise TimeoutError("the connection was not made in time")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code or self._aborted:
            raise OSError(code, os.strerror(code) if code else "aborted")

    def _tunnel(self, proxy: SplitResult) -> None:
        assert self._socket is not None
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        name = f"{host}:{self.origin.port}"
        lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}"]
        lines += [f"{key}: {value}" for key, value in _proxy_credentials(proxy).items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        with HTTPResponse(self._socket, method="CONNECT") as response:
            response.begin()
            if response.status == 407:
                raise ReadError(
                    f"the proxy {proxy.hostname} asks for a user and a password (407): "
                    "give them in HTTPS_PROXY, as http://user:password@host:port"
                )
            status = response.status
            if 400 <= status < 500 and status not in (408, 425, 429):
                raise ReadError(
                    f"the proxy {proxy.hostname} refuses connections to {name} ({status})"
                )
            if status != 200:
                raise TryAgainError(f"the proxy {proxy.hostname} answered {status}")

    def _secure(self, until: float) -> None:
        assert self._socket is not None and self._context is not None
        # The handshake comes later, when `abort` knows the new socket.
        secured = self._context.wrap_socket(
            self._socket, server_hostname=self.origin.host, do_handshake_on_connect=False
        )
        self._socket = secured
        if self._aborted:
            raise OSError("aborted")
        secured.settimeout(max(0.05, until - time.monotonic()))
        secured.do_handshake()


class Pool:
    """Idle connections by origin, and those in use, which `close` ends."""

    def __init__(self) -> None:
        self.closed = False
        self._idle: dict[Origin, list[Connection]] = {}
        self._used: set[Connection] = set()
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def take(self, origin: Origin, fresh: bool = False) -> tuple[Connection, bool]:
        """A connection, and whether it is one that was used before; a new one is not open yet."""
        stale = []
        with self._lock:
            if self.closed:
                raise ReadError("the client of these connections was closed")
            idle = self._idle.get(origin, [])
            connection = None
            while idle and connection is None and not fresh:
                connection = idle.pop()
                if connection.is_stale:
                    stale.append(connection)
                    connection = None
            if origin.scheme == "https" and self._context is None:
                self._context = tls_context()
            found = connection or Connection(origin, self._context)
            self._used.add(found)
        for old in stale:
            old.close()
        return found, connection is not None

    def give(self, connection: Connection) -> None:
        """Takes back a connection whose last response was read up."""
        connection.used = time.monotonic()
        with self._lock:
            self._used.discard(connection)
            idle = self._idle.setdefault(connection.origin, [])
            keep = not self.closed and len(idle) < _IDLE_CONNECTIONS
            if keep:
                idle.append(connection)
        if not keep:
            connection.close()

    def drop(self, connection: Connection) -> None:
        """Closes a connection of no further use."""
        with self._lock:
            self._used.discard(connection)
        connection.close()

    def close(self) -> None:
        """Closes what is idle, and ends what is in use."""
        with self._lock:
            self.closed = True
            idle = [connection for each in self._idle.values() for connection in each]
            used = list(self._used)
            self._idle.clear()
        for connection in idle:
            connection.close()
        for connection in used:
            connection.abort()


def proxy_of(origin: Origin) -> SplitResult | None:
    """The proxy that the environment names: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY; but for NO_PROXY and this machine."""
    if origin.host == "localhost" or _is_loopback(origin.host):
        return None
    proxies = urllib.request.getproxies_environment()
    url = proxies.get(origin.scheme) or proxies.get("all")
    if not url or urllib.request.proxy_bypass(f"{origin.host}:{origin.port}"):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        shown = redacted(url if "://" in url else f"http://{url}")
        raise UsageError(
            f"{origin.scheme.upper()}_PROXY={shown}: expected http://[user:password@]host:port; "
            "proxies that speak TLS or SOCKS themselves are not supported"
        )
    return parts


def tls_context() -> ssl.SSLContext:
    """Trusts the system's authorities, or SSL_CERT_FILE and SSL_CERT_DIR; has a client certificate if one is given."""
    if sys.platform == "darwin":
        import truststore  # the keychain, which OpenSSL does not know

        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.create_default_context()
        paths = ssl.get_default_verify_paths()
        asked = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        has = paths.cafile or (paths.capath and any(Path(paths.capath).iterdir()))
        if asked and not has:
            raise UsageError(f"SSL_CERT_FILE or SSL_CERT_DIR: {asked} has no certificates")
        if not has:
            # An interpreter that was built for another distribution.
            context.load_verify_locations(_bundle())
    certificate = os.environ.get(CERTIFICATE)
    if certificate:
        try:
            context.load_cert_chain(certificate, os.environ.get(KEY) or None)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{CERTIFICATE}={certificate}: cannot be used: {error}") from error
    return context


def _bundle() -> str:
    for path in _BUNDLES:
        if Path(path).is_file():
            return path
    try:
        import certifi
    except ImportError:
        raise ReadError(
            "this machine has no certificates of authorities (expected at "
            f"{', '.join(_BUNDLES)}): install ca-certificates, or set SSL_CERT_FILE"
        ) from None
    return certifi.where()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy_credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
