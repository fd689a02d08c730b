"""RemoteFile: ranges of a file on a web server, read straight into the caller's memory and resumed where they broke."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zml.errors import ReadError
from zml.vfs.base import Cancellation, Checksum, File
from zml.vfs.client import HttpClient, Reply, Response, again_if_temporary, raise_for_status
from zml.vfs.patience import Patience, TryAgainError
from zml.vfs.urls import redacted

# So often in a row may a server give other bytes than were asked for, before that is what it does.
_WRONG = 4
# So often in a row may a stream that cannot be resumed break at or before the same byte.
_BREAKS = 8
_SKIPPED = 1 << 20
# An address or a token that is not valid, or no longer. S3 says 400 of one that has expired.
_REFUSED = (400, 401, 403)
_CONTENT_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)\s*")


@dataclass(frozen=True)
class Located:
    """Where the bytes of a file are, for now."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class _WrongError(TryAgainError):
    """The server gave something else than what was asked for."""


class RemoteFile(File):
    """A file that is read with ranged GETs. Any number of threads may read; one at a time where it is `in_order`."""

    streams = 16
    part = 8 << 20

    def __init__(
        self,
        client: HttpClient,
        url: str,
        size: int,
        etag: str | None,
        locate: Callable[[bool], Located],
        *,
        checksum: Checksum | None = None,
        modified: str | None = None,
        in_order: bool = False,
    ) -> None:
        """`etag`: as the server that has the bytes sends it in its ETag; it must not change. None: it is not checked.

        `modified`: its Last-Modified, which must not change either.

        `locate` says where the bytes are; with True after a 400, 401 or 403, once a try, for an address or a token that
        is not expired. `in_order`: the server does not serve ranges.
        """
        self.url = url
        self.size = size
        self.etag = etag
        self.checksum = checksum
        self.in_order = in_order
        if client.options.streams is not None:
            self.streams = client.options.streams
        if in_order:
            self.streams = 1
        self._client = client
        self._locate = locate
        self._version = etag
        self._modified = modified
        self._closed = False
        self._lock = threading.Lock()
        self._stream: Reply | None = None
        self._position = 0

    def read_into(
        self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        """Fills the buffer, resuming at the byte that was reached."""
        what = redacted(self.url)
        if buffer.format != "B" or buffer.ndim != 1:
            buffer = buffer.cast("B")
        if offset < 0 or offset + len(buffer) > self.size:
            raise ReadError(
                f"{what}: bytes {offset} to {offset + len(buffer)} were asked for, it has {self.size}"
            )
        if cancellation is not None:
            cancellation.check()
        if not len(buffer):
            return
        patience = Patience(self._client.options, what, cancellation)
        if self.in_order:
            self._read_in_order(offset, buffer, patience)
        else:
            self._read_range(offset, buffer, patience)

    def close(self) -> None:
        """Ends the stream, if there is one."""
        self._closed = True
        # A read that is under way ends the stream itself.
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _read_range(self, offset: int, buffer: memoryview, patience: Patience) -> None:
        done = wrong = 0
        renew = renewed = False
        while done < len(buffer):
            self._check_open()
            before = done
            try:
                start, end = offset + done, offset + len(buffer)
                with self._ask(start, end, renew, patience) as reply:
                    renew = False
                    if reply.status in _REFUSED and not renewed:
                        renew = renewed = True
                        continue
                    self._check(reply, start, end, patience)
                    with reply.ended_by(patience.cancellation):
                        while done < len(buffer) and (count := reply.read_into(buffer[done:])):
                            done += count
                            patience.progress()
                if done < len(buffer):
                    raise TryAgainError(f"the answer ended at byte {offset + done}")
            except TryAgainError as failure:
                if done > before:
                    renewed, wrong = False, 0
                if isinstance(failure, _WrongError):
                    wrong += 1
                    if wrong == _WRONG:
                        raise ReadError(f"{patience.what}: {failure.reason}") from failure
                patience.again(failure)

    def _ask(self, start: int, end: int, renew: bool, patience: Patience) -> Reply:
        located = self._locate(renew)
        headers = {**located.headers, "Range": f"bytes={start}-{end - 1}"}
        headers["Accept-Encoding"] = "identity"
        if _is_strong(self._version):
            headers["If-Range"] = self._version or ""
        return self._client.send("GET", located.url, headers, b"", patience)

    def _check(self, reply: Reply, start: int, end: int, patience: Patience) -> None:
        """Whether a reply holds the bytes from `start` on. Raises what it says instead."""
        what = patience.what
        again_if_temporary(reply, patience)
        if reply.status in (412, 416):
            raise self._changed(what, f"the server answered {reply.status}")
        if reply.status >= 400:
            with reply.ended_by(patience.cancellation):
                body = reply.read(1 << 20)
            raise_for_status(Response(reply.status, reply.headers, body, reply.url), what)
        check_encoding(reply.headers, what)
        version = reply.headers.get("etag")
        if self._version is not None and version is not None and not _same(version, self._version):
            raise self._changed(what, f"its ETag is {version}, it was {self._version}")
        modified = reply.headers.get("last-modified")
        # The servers behind a balancer may have other times for the same content: a strong ETag says more.
        strong = _is_strong(self._version) and version is not None
        if None not in (self._modified, modified) and modified != self._modified and not strong:
            raise self._changed(what, f"it was modified on {modified}, before on {self._modified}")
        length = reply.length
        if reply.status == 200:
            if length is not None and length != self.size:
                short = f"it has {length} bytes, expected {self.size}"
                if version is not None and self._version is not None:
                    raise _WrongError(f"the server answered the same ETag, but {short}")
                raise self._changed(what, short)
            if start > 0:
                raise _WrongError(
                    f"the whole file was answered where bytes {start} to {end} were asked for"
                )
            return
        if reply.status != 206:
            raise _WrongError(f"the server answered {reply.status}, expected 206")
        content = reply.headers.get("content-range", "")
        found = _CONTENT_RANGE.fullmatch(content)
        if not found:
            raise _WrongError(
                f"the server answered the Content-Range {content!r}, expected bytes {start}-{end - 1}/{self.size}"
            )
        first, last, total = int(found[1]), int(found[2]), found[3]
        if total != "*" and int(total) != self.size:
            raise self._changed(what, f"it has {total} bytes, expected {self.size}")
        # Fewer bytes are well: the next try asks for those that are missing.
        if first != start or not first <= last < end:
            raise _WrongError(
                f"the server answered bytes {first} to {last + 1}, where {start} to {end} were asked for"
            )
        if length is not None and length > last - first + 1:
            raise _WrongError(
                f"the server answered {length} bytes for its Content-Range {content!r}"
            )

    def _read_in_order(self, offset: int, buffer: memoryview, patience: Patience) -> None:
        done = breaks = 0
        renew = renewed = False
        with self._lock:
            while done < len(buffer):
                before = done
                try:
                    self._check_open()
                    if self._stream is None or self._position > offset + done:
                        self._drop()
                        reply = self._begin(renew, patience)
                        renew = False
                        if reply.status in _REFUSED and not renewed:
                            reply.close()
                            renew = renewed = True
                            continue
                        self._take(reply, patience)
                    done += self._take_from_stream(offset + done, buffer[done:], patience)
                except TryAgainError as failure:
                    self._drop()
                    breaks = 0 if done > before else breaks + 1
                    if breaks == _BREAKS:
                        raise ReadError(
                            f"{patience.what}: broke {breaks} times before byte {offset + done + 1}, from a server "
                            f"without ranges, which cannot go on where it broke: {failure.reason}"
                        ) from failure
                    patience.again(failure)
                except BaseException:
                    self._drop()
                    raise
            if self._closed or self._position == self.size:
                self._drop()

    def _begin(self, renew: bool, patience: Patience) -> Reply:
        located = self._locate(renew)
        headers = {**located.headers, "Accept-Encoding": "identity"}
        return self._client.send("GET", located.url, headers, b"", patience)

    def _take(self, reply: Reply, patience: Patience) -> None:
        try:
            self._check(reply, 0, self.size, patience)
        except BaseException:
            reply.close()
            raise
        reply.leave_gate()
        self._stream, self._position = reply, 0

    def _take_from_stream(self, offset: int, buffer: memoryview, patience: Patience) -> int:
        """Some bytes of the stream at `offset`, after skipping what is before."""
        assert self._stream is not None
        stream = self._stream
        with stream.ended_by(patience.cancellation):
            skipped = memoryview(bytearray(min(_SKIPPED, offset - self._position)))
            while self._position < offset:
                count = stream.read_into(skipped[: offset - self._position])
                self._advance(count, patience)
            count = stream.read_into(buffer)
            self._advance(count, patience)
        return count

    def _advance(self, count: int, patience: Patience) -> None:
        if not count:
            raise TryAgainError(f"the answer ended at byte {self._position}")
        self._position += count
        patience.progress()

    def _drop(self) -> None:
        stream, self._stream, self._position = self._stream, None, 0
        if stream is not None:
            stream.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ReadError(f"{redacted(self.url)}: read after it was closed")

    def _changed(self, what: str, why: str) -> ReadError:
        return ReadError(f"{what}: the file changed while it was read: {why}. Open it again")


def check_encoding(headers: Mapping[str, str], what: str) -> None:
    """Raises ReadError for bytes that are not the file's own."""
    encoding = headers.get("content-encoding", "identity")
    # aws-chunked was how it was uploaded: some stores keep that word, and serve the bytes as they are.
    if {part.strip().lower() for part in encoding.split(",")} - {"", "identity", "aws-chunked"}:
        raise ReadError(
            f"{what}: the server answered the Content-Encoding {encoding!r} where identity was asked for: "
            "let it serve these files as they are"
        )


def _is_strong(etag: str | None) -> bool:
    return etag is not None and etag.startswith('"')


def _same(one: str, other: str) -> bool:
    """Of weak ones, and without quotes, as some stores list them."""
    return one.removeprefix("W/").strip('"') == other.removeprefix("W/").strip('"')
