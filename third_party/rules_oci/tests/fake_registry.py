"""A registry within the test: the distribution protocol, and the ways in which real ones fail."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER, PASSWORD, TOKEN = "user", "secret", "the-token"


class FakeRegistry:
    """Serves in a thread until `close`."""

    def __init__(self, auth: str = "none") -> None:
        self.auth = auth
        """`none`, `basic` or `bearer`."""
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.requests: Counter[str] = Counter()
        """How often each method met each kind of address, such as `PUT upload`."""
        self.scopes: list[list[str]] = []
        """What tokens were asked for."""
        self.failures: dict[str, list[int]] = {}
        """For a kind of request, the statuses of its next answers; 0 cuts the connection."""
        self.retry_after = ""
        self.redirect_uploads = False
        self.valid_tokens = {TOKEN}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(registry: FakeRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Nothing."""

        def answer(self, status: int, body: Any = None, **headers: str) -> None:
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def refused(self) -> bool:
            given = self.headers.get("Authorization", "")
            if registry.auth == "basic":
                wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                if given != wanted:
                    self.answer(401, WWW_Authenticate='Basic realm="test"')
                    return True
            if (
                registry.auth == "bearer"
                and given.removeprefix("Bearer ") not in registry.valid_tokens
            ):
                challenge = (
                    f'Bearer realm="http://{registry.host}/token",service="test",scope="ignored"'
                )
                self.answer(401, WWW_Authenticate=challenge)
                return True
            return False

        def token(self, query: dict[str, list[str]], body: bytes) -> None:
            form = urllib.parse.parse_qs(body.decode())
            registry.scopes.append((query or form)["scope"])
            basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            identified = form.get("refresh_token") == [PASSWORD]
            if self.headers.get("Authorization") != basic and not identified:
                self.answer(401, {"errors": [{"code": "DENIED", "message": "wrong password"}]})
            else:
                self.answer(200, {"token": sorted(registry.valid_tokens)[-1]})

        def handle_any(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(url.query)
            kind = next(
                (k for k in ("/uploads/", "/blobs/", "/manifests/", "/token") if k in url.path), "?"
            )
            kind = {
                "/uploads/": "upload",
                "/blobs/": "blob",
                "/manifests/": "manifest",
                "/token": "token",
            }[kind]
            if "mount" in query:
                kind = "mount"
            failures = registry.failures.get(f"{self.command} {kind}", [])
            if failures and failures[0] == 0:  # in the middle of the body
                failures.pop(0)
                registry.requests[f"{self.command} {kind}"] += 1
                self.rfile.read(min(1, int(self.headers.get("Content-Length") or 0)))
                self.connection.close()
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            registry.requests[f"{self.command} {kind}"] += 1
            if failures:
                wait = {"Retry_After": registry.retry_after} if registry.retry_after else {}
                self.answer(
                    failures.pop(0), {"errors": [{"code": "TEST", "message": "as asked"}]}, **wait
                )
            elif kind == "token":
                self.token(query, body)
            elif not self.refused():
                name = url.path.removeprefix("/v2/").rpartition(
                    f"/{kind if kind == 'manifest' else 'blob'}s/"
                )[0]
                getattr(self, f"on_{kind}")(name, url.path.rpartition("/")[2], query, body)

        do_HEAD = do_GET = do_POST = do_PUT = handle_any  # noqa: N815  # names of the base class

        def on_blob(self, name: str, digest: str, query: dict[str, list[str]], body: bytes) -> None:
            self.answer(200 if digest in registry.blobs.get(name, {}) else 404)

        def on_mount(self, name: str, last: str, query: dict[str, list[str]], body: bytes) -> None:
            digest, source = query["mount"][0], query["from"][0]
            if digest in registry.blobs.get(source, {}):
                registry.blobs.setdefault(name, {})[digest] = registry.blobs[source][digest]
                self.answer(201)
            else:
                self.answer(202, Location=f"/v2/{name}/blobs/uploads/unused")

        def on_upload(self, name: str, last: str, query: dict[str, list[str]], body: bytes) -> None:
            if self.command == "POST":
                self.answer(202, Location=f"/v2/{name}/blobs/uploads/session?state=x")
            elif registry.redirect_uploads and "redirected" not in query:
                self.answer(307, Location=self.path + "&redirected=1")
            else:
                digest = "sha256:" + hashlib.sha256(body).hexdigest()
                if [digest] != query["digest"] or "state" not in query:
                    self.answer(400, {"errors": [{"code": "DIGEST_INVALID", "message": digest}]})
                else:
                    registry.blobs.setdefault(name, {})[digest] = body
                    self.answer(201)

        def on_manifest(
            self, name: str, reference: str, query: dict[str, list[str]], body: bytes
        ) -> None:
            value = json.loads(body)
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            known = registry.manifests.setdefault(name, {})
            blobs = [value["config"], *value["layers"]] if "config" in value else []
            missing = [
                blob["digest"]
                for blob in blobs
                if blob["digest"] not in registry.blobs.get(name, {})
            ]
            missing += [m["digest"] for m in value.get("manifests", []) if m["digest"] not in known]
            if missing:
                self.answer(
                    400, {"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": missing[0]}]}
                )
                return
            known[reference] = known[digest] = (self.headers["Content-Type"], body)
            self.answer(201, Docker_Content_Digest=digest)

    return Handler
