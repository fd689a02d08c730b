"""http:// and https://: files of web servers. A URL that ends with "/" is a folder, if the server has it so."""

from __future__ import annotations

import base64
import netrc
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from zml.errors import ReadError, UnsupportedError, UsageError
from zml.vfs import autoindex
from zml.vfs.base import Entry, File, FileSystem, Options
from zml.vfs.client import HttpClient, Reply, Response, again_if_temporary, raise_for_status
from zml.vfs.connections import Origin
from zml.vfs.memory import MemoryFile
from zml.vfs.patience import Patience, TryAgainError
from zml.vfs.remote import Located, RemoteFile, check_encoding
from zml.vfs.urls import redacted

BEARER = "ZML_HTTP_BEARER"
"""The environment's name of a token, which is sent to the hosts of all URLs that hold no user and password."""

_WHOLE = 256 << 20
_LISTING = 64 << 20
_TOTAL = re.compile(r"bytes\s+(?:\d+-\d+|\*)/(\d+)\s*")


@dataclass(frozen=True)
class _Found:
    """What a server says of a URL."""

    url: str
    """Where redirects led to."""
    size: int | None
    ranges: bool
    headers: Mapping[str, str]
    content: bytes | None = None
    """All of it, of a server that does not say its size."""

    @property
    def is_folder(self) -> bool:
        """Whether the server calls it one: web servers redirect a folder's name to the one with "/"."""
        return _is_folder(self.url)


class HttpFileSystem(FileSystem):
    """Web servers. Credentials come from the URL (user:password@), from ZML_HTTP_BEARER, or from netrc."""

    def __init__(self, options: Options) -> None:
        self._client = HttpClient(options)
        self._netrc: netrc.netrc | None = None
        self._lock = threading.Lock()

    def open(self, url: str) -> File:
        """Opens a file: with one request for its first byte, which also says whether the server serves ranges."""
        found = self._find(url)
        if found.is_folder:
            why = "is a folder, expected a file"
            if found.url.rstrip("/") != url.rstrip("/"):
                why = f"redirected to {redacted(found.url)}, expected a file: does the server ask for a login there?"
            raise ReadError(f"{redacted(url)}: {why}")
        if found.content is not None:
            return MemoryFile(redacted(url), found.content)
        if found.size is None:
            raise ReadError(f"{redacted(url)}: the server does not say how many bytes it has")
        return RemoteFile(
            self._client,
            url,
            found.size,
            found.headers.get("etag"),
            _Location(self, url, found.url).locate,
            modified=found.headers.get("last-modified"),
            in_order=not found.ranges,
        )

    def stat(self, url: str) -> Entry:
        """A file, or a folder: what ends with "/", or is redirected there."""
        found = self._find(url)
        if found.is_folder:
            return Entry(_as_folder(url))
        size = found.size if found.content is None else len(found.content)
        modified = autoindex.seconds(found.headers.get("last-modified"))
        return Entry(url, size, found.headers.get("etag"), modified)

    def list(self, url: str) -> Iterator[Entry]:
        """The links of an index page (of nginx, Apache, lighttpd, Python), or of nginx's JSON."""
        what, folder = redacted(url), _as_folder(url)
        advice = (
            "give the URLs of files, or of a folder whose files an index or a config names; or have the server "
            "list folders (nginx: `autoindex on;`, Apache: `Options +Indexes`)"
        )
        response = self._client.request(
            "GET", folder, self.headers(url), what=what, limit=_LISTING, accept=(403,)
        )
        if response.status == 403:
            # What web servers say of a folder that they do not list.
            raise UnsupportedError(
                f"{what}: the server does not list this folder, or not to these credentials (403): {advice}"
            )
        check_encoding(response.headers, what)
        entries = autoindex.parse(response, folder)
        if entries is None:
            raise UnsupportedError(f"{what}: the server has no listing of this folder: {advice}")
        yield from entries

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def headers(self, url: str) -> dict[str, str]:
        """The credentials for a URL, as headers. Raises UsageError."""
        host = Origin.of(url).host
        parts = urlsplit(url)
        if parts.username is not None:
            return _basic(unquote(parts.username), unquote(parts.password or ""))
        token = os.environ.get(BEARER, "").strip()
        if token:
            return {"Authorization": f"Bearer {token}"}
        found = self._read_netrc().authenticators(host)
        return _basic(found[0], found[2] or "") if found else {}

    def locate(self, url: str) -> str:
        """Where redirects lead to by now."""
        return self._find(url).url

    def _find(self, url: str) -> _Found:
        headers = {**self.headers(url), "Accept-Encoding": "identity", "Range": "bytes=0-0"}
        patience = Patience(self._client.options, url)
        while True:
            try:
                with self._client.send("GET", url, headers, b"", patience) as reply:
                    return _found(reply, patience)
            except TryAgainError as failure:
                patience.again(failure)

    def _read_netrc(self) -> netrc.netrc:
        with self._lock:
            if self._netrc is None:
                named = os.environ.get("NETRC")
                # A user without a home has none.
                path = Path(named or os.path.expanduser("~/.netrc"))  # noqa: PTH111
                if not named and not path.is_file():
                    path = Path(os.devnull)
                try:
                    # Without a name netrc also looks at the file's mode: others must not read it.
                    default = not named and path.name == ".netrc"
                    self._netrc = netrc.netrc(None if default else str(path))
                except netrc.NetrcParseError as error:
                    raise UsageError(f"{path}: cannot be used: {error.msg}") from None
                except UnicodeError:
                    raise UsageError(f"{path}: cannot be used: it is not UTF-8") from None
                except OSError as error:
                    raise UsageError(f"NETRC={path}: cannot be read: {error.strerror}") from error
            return self._netrc


class _Location:
    """Where a file's bytes are: where redirects led to, asked again when that is refused."""

    def __init__(self, system: HttpFileSystem, url: str, final: str) -> None:
        self._system = system
        self._url = url
        self._final = final

    def locate(self, renew: bool) -> Located:
        """With the credentials, if it is the host that they are for."""
        if renew:
            self._final = self._system.locate(self._url)
        final = self._final
        own = Origin.of(final) == Origin.of(self._url)
        return Located(final, self._system.headers(self._url) if own else {})


def _found(reply: Reply, patience: Patience) -> _Found:
    again_if_temporary(reply, patience)
    headers, total = reply.headers, _TOTAL.fullmatch(reply.headers.get("content-range", ""))
    size = int(total[1]) if total else None
    if reply.status == 416 and size == 0:
        return _Found(reply.url, 0, True, headers)
    if reply.status == 403 and _is_folder(reply.url):
        return _Found(reply.url, None, False, headers)  # a folder that the server does not list
    if reply.status >= 400:
        with reply.ended_by(patience.cancellation):
            body = reply.read(1 << 20)
        raise_for_status(Response(reply.status, headers, body, reply.url), patience.what)
    check_encoding(headers, patience.what)
    if reply.status == 206:
        return _Found(reply.url, size, True, headers)
    if reply.status != 200:
        raise ReadError(f"{patience.what}: the server answered {reply.status}, expected 200 or 206")
    if reply.length is not None:
        return _Found(reply.url, reply.length, headers.get("accept-ranges") == "bytes", headers)
    with reply.ended_by(patience.cancellation):
        return _Found(reply.url, None, False, headers, reply.read(_WHOLE))


def _is_folder(url: str) -> bool:
    parts = urlsplit(url)
    return (parts.path or "/").endswith("/") and not parts.query


def _as_folder(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path if parts.path.endswith("/") else parts.path + "/"
    return urlunsplit(parts._replace(path=path, fragment=""))


def _basic(user: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}
