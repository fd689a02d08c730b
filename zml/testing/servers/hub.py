"""The Hugging Face hub's protocol on loopback, as huggingface_hub 2.4 speaks it: names, revisions, trees, files.

What the hub does, and clients rely on: a revision's commit, trees in pages with a Link header, small files behind a
redirect on the hub itself, large ones (LFS) behind a redirect to another host with a signature that ends, errors named
by X-Error-Code. Xet is left out: a client sees a hub that stores large files as LFS.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from zml.testing.servers.loopback import Handler, Loopback
from zml.testing.servers.repos import Blob, Files, commit_of, listing

_CHUNK = 1 << 20


@dataclass
class Repo:
    """A repository: commits by hash, and the revisions that name them."""

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False


@dataclass(frozen=True)
class Request:
    """A request that came, and how it was answered."""

    host: str
    """"hub" or "cdn"."""
    method: str
    path: str
    """With its query."""
    headers: Mapping[str, str]
    """By names in lower case."""
    status: int


class Hub:
    """A hub under way: where it is, what it was asked, and what it is to do wrong."""

    def __init__(self, tokens: Mapping[str, Sequence[str]], page: int, lifetime: float) -> None:
        self.url = ""
        """HF_ENDPOINT of its clients."""
        self.cdn = ""
        """The other host, which has the bytes of large files."""
        self.requests: list[Request] = []
        self.repos: dict[str, Repo] = {}
        self.tokens = tokens
        self.page = page
        self.lifetime = lifetime
        self._key = secrets.token_bytes(16)
        self._refusals: list[tuple[str, int, Mapping[str, str]]] = []
        self._lock = threading.Lock()

    def push(self, repo: str, revision: str, files: Files) -> str:
        """A new commit, which the revision names from now on. Gives the commit's hash."""
        blobs = {blob.path: blob for blob in commit_of(files)}
        names = "".join(f"{blob.oid} {path}\n" for path, blob in sorted(blobs.items()))
        commit = hashlib.sha1(f"{repo}\n{names}".encode()).hexdigest()
        with self._lock:
            there = self.repos.setdefault(repo, Repo())
            there.commits[commit] = blobs
            there.revisions[revision] = commit
        return commit

    def commit(self, repo: str, revision: str = "main") -> str:
        """The hash that a revision names now."""
        return self.repos[repo].revisions[revision]

    def expire(self) -> None:
        """Ends every signature that was given out."""
        with self._lock:
            self._key = secrets.token_bytes(16)

    def refuse(
        self,
        count: int,
        status: int = 429,
        *,
        host: str = "hub",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answers the next requests of a host ("hub" or "cdn") with an error that passes."""
        with self._lock:
            given = {"Retry-After": "0"} if headers is None else headers
            self._refusals += [(host, status, given)] * count

    def asked(self, part: str, method: str | None = None) -> list[Request]:
        """The requests so far whose path has a part, in order."""
        return [r for r in self.requests if part in r.path and method in (None, r.method)]

    def refusal(self, host: str) -> tuple[int, Mapping[str, str]] | None:
        """An error to answer the next request with, if it was asked for."""
        with self._lock:
            for index, (of, status, headers) in enumerate(self._refusals):
                if of == host:
                    del self._refusals[index]
                    return status, headers
        return None

    def signed(self, repo: str, blob: Blob) -> str:
        """A URL of the other host, for a while."""
        expires = str(int(time.time() + self.lifetime))
        path = f"/repos/{quote(repo)}/{blob.etag}"
        query = {"Expires": expires, "Signature": self._signature(path, expires)}
        return f"{self.cdn}{path}?{urlencode(query)}"

    def stored(self, path: str, query: Mapping[str, list[str]]) -> Blob | None:
        """The blob of a signed URL; None where the signature is wrong, or has ended."""
        expires, signature = query.get("Expires", ["0"])[0], query.get("Signature", [""])[0]
        if signature != self._signature(path, expires) or int(expires) < time.time():
            return None
        repo, _, etag = unquote(path.removeprefix("/repos/")).rpartition("/")
        blobs = (b for commit in self.repos[repo].commits.values() for b in commit.values())
        return next(blob for blob in blobs if blob.etag == etag)

    def _signature(self, path: str, expires: str) -> str:
        return hashlib.sha256(self._key + f"{path} {expires}".encode()).hexdigest()


@contextlib.contextmanager
def hub(
    repos: Mapping[str, Mapping[str, Files]],
    *,
    private: Sequence[str] = (),
    gated: Sequence[str] = (),
    tokens: Mapping[str, Sequence[str]] | None = None,
    page: int = 1000,
    lifetime: float = 3600.0,
) -> Iterator[Hub]:
    """Serves repositories, "owner/name" or "datasets/owner/name", by revision.

    `private` and `gated` ones are served to those tokens that name them: {"hf_x": ["owner/name"]}; any other token of
    `tokens` is valid, and reads what is public. Trees come in pages of `page` entries, signatures live `lifetime` s.
    """
    server = Hub(tokens or {}, page, lifetime)
    for name, revisions in repos.items():
        for revision, files in revisions.items():
            server.push(name, revision, files)
        server.repos[name].private = name in private
        server.repos[name].gated = name in gated
    with (
        contextlib.closing(_Host(server, _HubHandler)) as host,
        contextlib.closing(_Host(server, _CdnHandler)) as cdn,
    ):
        server.url = host.url
        # Another host by name too, not only by port: what is meant for one must not be sent to the other.
        server.cdn = cdn.url.replace("127.0.0.1", "localhost")
        yield server


class _Host(Loopback):
    def __init__(self, hub: Hub, handler: type[_Handler]) -> None:
        self.hub = hub
        super().__init__(handler)


class _Handler(Handler):
    """What both hosts share."""

    host = ""

    @property
    def hub(self) -> Hub:
        """Whose host it is."""
        assert isinstance(self.server.owner, _Host)
        return self.server.owner.hub

    def answer(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refused = self.hub.refusal(self.host)
        if refused is not None:
            self._send(refused[0], b"slow down", headers=refused[1])
            return
        parts = urlsplit(self.path)
        self._answer(parts.path, parse_qs(parts.query, keep_blank_values=True))

    def _answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        raise NotImplementedError

    def _send(
        self,
        status: int,
        body: bytes = b"",
        *,
        kind: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._begin(status, {"Content-Type": kind, "Content-Length": str(len(body))}, headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, *headers: Mapping[str, str]) -> None:
        asked = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.host, self.command, self.path, asked, status))
        self.send_response(status)
        for name, value in (pair for part in headers for pair in part.items()):
            self.send_header(name, value)
        self.end_headers()

    def _file(self, blob: Blob, headers: Mapping[str, str]) -> None:
        """A file's bytes, or those of a Range."""
        about = {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes", **headers}
        begin, end, status = 0, blob.size, 200
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if asked and condition in (None, about["ETag"]):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, blob.size - int(last))
            end = min(int(last) + 1, blob.size) if first and last else blob.size
            if begin >= end:
                self._send(416, headers={"Content-Range": f"bytes */{blob.size}"})
                return
            status = 206
            about["Content-Range"] = f"bytes {begin}-{end - 1}/{blob.size}"
        about["Content-Length"] = str(end - begin)
        self._begin(status, {"Content-Type": "application/octet-stream"}, about)
        if self.command == "HEAD":
            return
        with blob.open() as content:
            content.seek(begin)
            while begin < end:
                chunk = content.read(min(_CHUNK, end - begin))
                self.wfile.write(chunk)
                begin += len(chunk)


class _CdnHandler(_Handler):
    """Large files, for those who have a signed URL."""

    host = "cdn"

    def _answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        if "Authorization" in self.headers:
            self._send(400, b"Only one auth mechanism allowed")
            return
        blob = self.hub.stored(path, query)
        if blob is None:
            self._send(403, b"<Error><Code>AccessDenied</Code></Error>", kind="application/xml")
            return
        # A store names a version its own way, not as the hub does.
        etag = hashlib.md5(blob.etag.encode()).hexdigest()
        self._file(blob, {"ETag": f'"{etag}"'})


class _HubHandler(_Handler):
    """The hub itself."""

    host = "hub"

    def _answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        if path == "/api/agent-harnesses":
            self._json({"standardEnvVars": [], "harnesses": {}})
            return
        if path.startswith("/api/resolve-cache/"):
            kind, owner, name, commit, file = path.removeprefix("/api/resolve-cache/").split("/", 4)
            self._in_repo(_name(kind, owner, name), "cached", commit, unquote(file), query)
            return
        if path.startswith("/api/"):
            kind, owner, name, *rest = path.removeprefix("/api/").split("/", 5)
            what, revision, file = [*rest, "", "", ""][:3]
            self._in_repo(_name(kind, owner, name), what, unquote(revision), unquote(file), query)
            return
        before, found, after = path.lstrip("/").partition("/resolve/")
        revision, _, file = after.partition("/")
        if not found:
            self._error(404, "", "Sorry, we can't find the page you are looking for.")
            return
        self._in_repo(unquote(before), "resolve", unquote(revision), unquote(file), query)

    def _in_repo(
        self, name: str, what: str, revision: str, path: str, query: Mapping[str, list[str]]
    ) -> None:
        hub = self.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            self._error(401, "", "Invalid credentials in Authorization header")
            return
        allowed = name in hub.tokens.get(token, ())
        repo = hub.repos.get(name)
        if repo is None or (repo.private and not allowed):
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        commit = repo.revisions.get(revision or "main", revision)
        if commit not in repo.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        blobs = repo.commits[commit]
        if what in ("", "revision"):
            self._info(name, repo, commit, query)
        elif what == "tree":
            self._tree(commit, blobs, path, query)
        elif what == "paths-info":
            asked = parse_qs(self._body.decode()).get("paths", [])
            entries = {str(e["path"]): e for e in listing(blobs, "", True)}
            self._json([entries[p.strip("/")] for p in asked if p.strip("/") in entries])
        elif what == "refs":
            names = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": c}
                for n, c in repo.revisions.items()
            ]
            self._json({"branches": names, "tags": [], "converts": []})
        elif what in ("resolve", "cached"):
            if repo.gated and not allowed:
                ask = f"Access to {name} is restricted and you are not in the authorized list."
                self._error(
                    403 if token else 401,
                    "GatedRepo",
                    f"{ask} Visit {hub.url}/{name} to ask for access.",
                )
                return
            if path not in blobs:
                self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
                return
            self._resolve(name, commit, blobs[path], redirect=what == "resolve")
        else:
            self._error(404, "", "Not found")

    def _info(self, name: str, repo: Repo, commit: str, query: Mapping[str, list[str]]) -> None:
        information: dict[str, object] = {
            "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
            "id": name.removeprefix("datasets/"),
            "sha": commit,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "siblings": [{"rfilename": path} for path in sorted(repo.commits[commit])],
        }
        wanted = query.get("expand", []) + query.get("expand[]", [])
        if wanted:
            information = {k: v for k, v in information.items() if k in ("_id", "id", *wanted)}
        self._json(information)

    def _tree(
        self, commit: str, blobs: Mapping[str, Blob], path: str, query: Mapping[str, list[str]]
    ) -> None:
        hub = self.hub
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = listing(blobs, path.strip("/"), recursive)
        if not entries:
            message = f"{path} does not exist on the revision"
            self._error(404, "EntryNotFound", message, {"X-Repo-Commit": commit})
            return
        begin = int(query.get("cursor", ["0"])[0])
        limit = min(int(query.get("limit", [str(hub.page)])[0]), hub.page)
        headers = {}
        if begin + limit < len(entries):
            there = {name: values[0] for name, values in query.items()}
            following = urlencode({**there, "cursor": begin + limit})
            url = f"{hub.url}{urlsplit(self.path).path}?{following}"
            headers["Link"] = f'<{url}>; rel="next"'
        self._json(entries[begin : begin + limit], headers)

    def _resolve(self, name: str, commit: str, blob: Blob, *, redirect: bool) -> None:
        about = {"X-Repo-Commit": commit}
        if not redirect:
            self._file(blob, about)
            return
        about |= {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.etag}"'}
        if blob.sha256 is not None:
            self._send(302, headers={**about, "Location": self.hub.signed(name, blob)})
            return
        prefix, _, short = name.rpartition("datasets/")
        kind = "datasets" if prefix or name != short else "models"
        where = f"/api/resolve-cache/{kind}/{short}/{commit}/{quote(blob.path, safe='')}"
        self._send(307, headers={**about, "Location": f"{where}?etag=%22{blob.etag}%22"})

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._send(200, body, kind="application/json; charset=utf-8", headers=headers)

    def _error(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(
            status,
            json.dumps({"error": message}).encode(),
            kind="application/json; charset=utf-8",
            headers={**named, "X-Error-Message": message, **(headers or {})},
        )


def _name(kind: str, owner: str, name: str) -> str:
    prefix = "" if kind == "models" else f"{kind}/"
    return f"{prefix}{owner}/{name}"
