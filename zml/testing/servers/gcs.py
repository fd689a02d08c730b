"""gcp-storage-emulator on loopback, with what it lacks of Google Cloud Storage, and Google's servers of tokens."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage


class Asked(NamedTuple):
    """A request."""

    method: str
    target: str
    """Path and query, as they were sent."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Gcs:
    """The server, while it runs."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.tokens: set[str] | None = None
        """Those that the storage takes; None: it asks for none. The emulator itself never asks."""
        self.page = 1000
        """The most entries of a page. The emulator itself has no pages."""
        self.answer: Callable[[Asked], tuple[int, dict[str, str], bytes] | None] = lambda asked: (
            None
        )
        """What to answer in place of the emulator: status, headers, body; None for what the emulator answers."""
        self.storage = Storage(use_memory_fs=True)
        # It writes all it knows of all objects each time that one is stored.
        self.storage._write_config_to_file = lambda: None
        self._generations = itertools.count(1_700_000_000_000_000)
        self._server = _Server(("127.0.0.1", 0), functools.partial(_Handler, self))
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def bucket(self, name: str) -> None:
        """Makes a bucket."""
        buckets.create_bucket(name, self.storage)

    def put(self, bucket: str, name: str, content: bytes, **meta: str) -> str:
        """Stores an object, with more of its metadata: its generation."""
        generation = str(next(self._generations))
        crc = google_crc32c.value(content).to_bytes(4, "big")
        self.storage.create_file(
            bucket,
            name,
            content,
            {
                "name": name,
                "bucket": bucket,
                "size": str(len(content)),
                "generation": generation,
                "updated": "2026-01-02T03:04:05.678Z",
                "contentType": "application/octet-stream",
                "crc32c": base64.b64encode(crc).decode(),
                "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
                **meta,
            },
        )
        return generation

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no error."""


class _Handler(RequestHandler):  # type: ignore[misc]  # the emulator has no types
    """The emulator's, behind what the real service does and the emulator does not."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, gcs: Gcs, *args: Any) -> None:
        self._gcs = gcs
        super().__init__(gcs.storage, *args)

    def do_GET(self) -> None:  # noqa: N802  # the base's name
        """Tokens, pages, preconditions; then the emulator."""
        if self._is_answered():
            return
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._gcs.tokens is not None and given not in self._gcs.tokens:
            self._refuse(401, "Invalid Credentials" if given else "Anonymous caller is refused")
        elif parts.path.endswith("/o"):
            self._list(parts.path.split("/")[-2], query)
        elif not self._has_generation(parts.path, query.get("ifGenerationMatch")):
            self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        """Only what `answer` answers: servers of tokens."""
        if not self._is_answered():
            self._refuse(501, "not here")

    def log_message(self, *_: object) -> None:
        """Tests look at `requests`."""

    def _is_answered(self) -> bool:
        length = int(self.headers.get("Content-Length") or 0)
        headers = {key.lower(): value for key, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, self.rfile.read(length))
        self._gcs.requests.append(asked)
        said = self._gcs.answer(asked)
        if said is not None:
            self._reply(*said)
        return said is not None

    def _list(self, bucket: str, query: Mapping[str, str]) -> None:
        if bucket not in self._gcs.storage.buckets:
            return self._refuse(404, "The specified bucket does not exist.")
        files, folders = self._gcs.storage.get_file_list(
            bucket, query.get("prefix"), query.get("delimiter")
        )
        by_name = {file["name"]: file for file in files} | dict.fromkeys(folders)
        begin = int(query.get("pageToken", "0"))
        end = begin + min(self._gcs.page, int(query.get("maxResults", "1000")))
        names = sorted(by_name)[begin:end]
        page: dict[str, Any] = {
            "items": [by_name[name] for name in names if by_name[name] is not None],
            "prefixes": [name for name in names if by_name[name] is None],
            "nextPageToken": str(end) if end < len(by_name) else None,
        }
        # What is empty is left out.
        page = {key: value for key, value in page.items() if value}
        return self._reply(200, {}, json.dumps(page).encode())

    def _has_generation(self, path: str, wanted: str | None) -> bool:
        bucket, _, name = path.split("/b/", 1)[1].partition("/o/")
        stored = self._gcs.storage.objects.get(bucket, {}).get(unquote(name))
        return wanted is None or stored is None or stored["generation"] == wanted

    def _refuse(self, status: int, message: str) -> None:
        error = {"error": {"code": status, "message": message}}
        self._reply(status, {}, json.dumps(error).encode())

    def _reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def gcs() -> Iterator[Gcs]:
    """Runs the emulator, in this process."""
    server = Gcs()
    try:
        yield server
    finally:
        server.close()
