"""Fixtures of the tests of ./bazel."""

import base64
import http.server
import shutil
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.bootstrap.fake_host import Host


@pytest.fixture
def host() -> Iterator[Host]:
    """A Debian machine without Bazel."""
    if shutil.which("apt-get", path="/usr/bin:/bin") is None:
        pytest.skip("this host has no apt")
    # Not pytest's own folder, whose path may be long: apt makes file names of 255 bytes of it.
    with tempfile.TemporaryDirectory(prefix="zml", dir="/tmp") as root:
        yield Host(Path(root))


@pytest.fixture
def server(host: Host) -> Iterator[str]:
    """Serves the mirror, to who gives the password, and as a proxy for any host."""
    want = "Basic " + base64.b64encode(b"user:pass").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            proxied = self.path.startswith("http://")
            allowed = proxied or self.headers.get("Authorization") == want
            path = urllib.parse.unquote(self.path).removeprefix("http://mirror.invalid")
            file = host.mirror / path.lstrip("/")
            body = file.read_bytes() if allowed and file.is_file() else b""
            self.send_response(200 if body else 404 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()
