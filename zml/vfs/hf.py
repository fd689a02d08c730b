"""hf://owner/name[@revision][/path]: repositories of the Hugging Face hub; hf://datasets/owner/name and the like too.

A revision is a branch, a tag or a commit. refs/pr/1 and refs/convert/x stand as they are; a "/" in any other one is
written %2F, as huggingface_hub has it. The commit that a revision has when it is first met is read until the end.

Names, tokens and settings are huggingface_hub's: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE,
HF_HUB_DISABLE_IMPLICIT_TOKEN. What its cache has is read from there. The rest comes by ranged GETs into memory: over
HTTP also where the hub stores it in Xet, whose library (hf_xet) writes logs and a staging folder to disk as soon as it
is imported. Requests are made here and not by huggingface_hub, whose every request may write to HF_HOME.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from zml import log
from zml.errors import AccessError, NotFoundError, ReadError, UnsupportedError, UsageError
from zml.vfs.base import Cancellation, Entry, File, FileSystem, Options
from zml.vfs.cache import copy_of, user_cache
from zml.vfs.client import HttpClient, Response
from zml.vfs.connections import Origin
from zml.vfs.remote import Located, RemoteFile

try:
    from huggingface_hub import constants, get_token, parse_hf_uri
    from huggingface_hub.errors import HfUriError
except ImportError as error:
    raise UnsupportedError(
        f"hf:// needs the package huggingface_hub ({error}): pip install huggingface_hub"
    ) from error

from zml.vfs import hf_cache, hf_errors
from zml.vfs.hf_cache import Download, HubCache, Repo

_Page = list[dict[str, Any]]
_LOG = log.get("vfs")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEXT = re.compile(r'<([^>]*)>;\s*rel="next"')
_REDIRECTS = 5
_TRIES = 3
# In seconds. Of a hub that cannot be asked, where the cache may do instead.
_IMPATIENT = 10.0


@dataclass(frozen=True)
class _Place:
    """What a URL names."""

    url: str
    root: str
    """The part of the URL that names the repository."""
    repo: Repo
    revision: str
    path: str

    def at(self, path: str) -> str:
        """The URL of another path of the same repository."""
        return f"{self.root}/{path}"


@dataclass
class _Snapshot:
    """A repository at a commit."""

    commit: str
    online: bool
    """Whether the hub can be asked."""
    folders: dict[str, tuple[dict[str, Any | None], bool]] = field(default_factory=dict)
    """What is known of a folder by path, of its listing the first page at least, and whether that is all."""


class HubFileSystem(FileSystem):
    """The hub, and the caches on disk that have parts of it."""

    def __init__(
        self,
        options: Options,
        *,
        endpoint: str | None = None,
        token: str | bool | None = None,
        cache: Path | None = None,
        offline: bool | None = None,
    ) -> None:
        """By default as the environment says. `token`: None is the user's, False is none; `cache`: HF_HUB_CACHE."""
        self._options = options
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token
        self._offline = constants.HF_HUB_OFFLINE if offline is None else offline
        shared = HubCache(Path(cache or constants.HF_HUB_CACHE))
        self._downloads: HubCache | None = None
        if options.cache is not None:
            own = options.cache != user_cache()
            self._downloads = HubCache(options.cache / "hub") if own else shared
        self._caches = [self._downloads, shared] if self._downloads else [shared]
        self._client = HttpClient(options)
        self._snapshots: dict[tuple[Repo, str], _Snapshot] = {}
        self._locks: dict[tuple[Repo, str], threading.Lock] = {}
        self._lock = threading.Lock()
        self._closing = Cancellation()

    def open(self, url: str) -> File:
        """Opens a file: in a cache where it is there, else on the hub; with Options.cache it is downloaded first."""
        place = self._place(url)
        snapshot = self._snapshot(place)
        found = self._cached(place, snapshot)
        if found is not None:
            if found.is_dir():
                raise ReadError(f"{url}: is a folder, expected a file")
            return self._copy(place, found)
        if not snapshot.online:
            raise self._not_cached(place)
        if not place.path:
            raise ReadError(f"{url}: is a repository, expected a file of it")
        if self._downloads is not None:
            # huggingface_hub takes the folder of a snapshot for a file that is there.
            if (self._about(place, snapshot) or {}).get("type") != "file":
                raise self._missing(place, snapshot)
            return self._copy(place, self._download(place, snapshot, self._downloads))
        return self._remote(place, snapshot)

    def stat(self, url: str) -> Entry:
        """A file, or a folder that has some."""
        place = self._place(url)
        snapshot = self._snapshot(place)
        if not place.path and snapshot.online:
            return Entry(place.root + "/")
        found = self._cached(place, snapshot)
        if found is not None:
            return _entry_of(place.at(place.path), found)
        if not snapshot.online:
            raise self._not_cached(place)
        entry = self._about(place, snapshot)
        if entry is None:
            raise self._missing(place, snapshot)
        return self._entry(place, entry)

    def list(self, url: str) -> Iterator[Entry]:
        """A folder's files and folders; without the hub, those that were downloaded."""
        place = self._place(url)
        snapshot = self._snapshot(place)
        if snapshot.online:
            listed, complete = snapshot.folders.get(place.path, ({}, False))
            if not complete:
                pages = self._tree(place, snapshot, recursive=False)
                listed = {entry["path"]: entry for page, _ in pages for entry in page}
                snapshot.folders[place.path] = listed, True
            entries = [self._entry(place, about) for _, about in sorted(listed.items()) if about]
            if not entries and place.path:  # git knows no empty folders
                raise self._missing(place, snapshot)
            return iter(entries)
        folder = self._cached(place, snapshot)
        if folder is None or not folder.is_dir():
            raise self._not_cached(place)
        prefix = place.at(place.path).rstrip("/")
        # Of links, those whose blob is gone are left out.
        found = sorted((p for p in folder.iterdir() if p.exists()), key=lambda path: path.name)
        return iter([_entry_of(f"{prefix}/{path.name}", path) for path in found])

    def walk(self, url: str) -> Iterator[Entry]:
        """All files below a folder, by path."""
        place = self._place(url)
        snapshot = self._snapshot(place)
        if not snapshot.online:
            return super().walk(url)
        pages = self._tree(place, snapshot, recursive=True)
        files = [entry for page, _ in pages for entry in page if entry["type"] == "file"]
        return iter([self._entry(place, e) for e in sorted(files, key=lambda e: str(e["path"]))])

    def close(self) -> None:
        """Closes the connections, and ends downloads."""
        self._closing.cancel()
        self._client.close()

    def _copy(self, place: _Place, path: Path) -> File:
        return copy_of(place.url, path, hf_cache.etag_of(path), self._options)

    def _place(self, url: str) -> _Place:
        whole = url.rstrip("/")
        try:
            uri = parse_hf_uri(whole)
        except HfUriError as error:
            raise UsageError(
                f"{url}: {error.msg.strip()} Expected hf://owner/name[@revision][/path]"
            ) from error
        if uri.is_bucket:
            raise UnsupportedError(f"{url}: buckets of the hub are not supported; repositories are")
        root = whole.removesuffix(uri.path_in_repo).rstrip("/")
        revision = uri.revision or constants.DEFAULT_REVISION
        return _Place(url, root, Repo(uri.type, uri.id), revision, uri.path_in_repo)

    def _snapshot(self, place: _Place) -> _Snapshot:
        """The commit of a place's revision: the same for as long as this file system lives."""
        key = place.repo, place.revision
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._snapshots:
                self._snapshots[key] = self._resolve(place)
            return self._snapshots[key]

    def _resolve(self, place: _Place) -> _Snapshot:
        if _COMMIT.fullmatch(place.revision):
            here = any(cache.find(place.repo, place.revision, "") for cache in self._caches)
            if self._offline or not here:
                return _Snapshot(place.revision, not self._offline)
            cached: str | None = place.revision
        else:
            refs = (cache.commit(place.repo, place.revision) for cache in self._caches)
            cached = next((ref for ref in refs if ref is not None), None)
        if self._offline:
            if cached is None:
                raise self._not_cached(place)
            return _Snapshot(cached, False)
        client = self._client
        if cached is not None:
            patience = min(_IMPATIENT, self._options.deadline)
            client = HttpClient(replace(self._options, deadline=patience))
        url = f"{self._api(place)}/revision/{quote(place.revision, safe='')}?expand=sha"
        try:
            commit = str(self._json(place, "GET", url, client=client)[0]["sha"])
        except (NotFoundError, AccessError):
            raise
        except ReadError as error:
            if cached is None:
                raise
            _LOG.warning("%s. Its commit %s is read, as far as the cache has it", error, cached[:8])
            return _Snapshot(cached, False)
        finally:
            if client is not self._client:
                client.close()
        return _Snapshot(commit, True)

    def _cached(self, place: _Place, snapshot: _Snapshot) -> Path | None:
        """Where a cache has a place, with the size that the hub gives."""
        for cache in self._caches:
            found = cache.find(place.repo, snapshot.commit, place.path)
            if found is None or (found.is_dir() and snapshot.online):
                continue
            about = None
            if snapshot.online:
                # A hub that does not answer any more does not take away what is here.
                try:
                    about = self._about(place, snapshot)
                except (NotFoundError, AccessError):
                    pass
                except ReadError as error:
                    _LOG.warning("%s. What the cache has of %s is read", error, snapshot.commit[:8])
                    snapshot.online = False
            size = found.stat().st_size
            if about is None or about.get("size") == size:
                return found
            _LOG.warning(
                "%s: its copy in the cache, %s, has %d bytes, expected %d: it is read again",
                place.url, found, size, about.get("size"),
            )  # fmt: skip
            if cache is self._downloads:
                hf_cache.remove(found)
        return None

    def _about(self, place: _Place, snapshot: _Snapshot) -> dict[str, Any] | None:
        """What the hub lists of a path; None where there is none."""
        folder = place.path.rpartition("/")[0]
        if folder not in snapshot.folders:
            try:
                pages = self._tree(replace(place, path=folder), snapshot, recursive=False)
                page, last = next(pages)
            except hf_errors.NoEntryError:
                page, last = [], True
            snapshot.folders[folder] = {entry["path"]: entry for entry in page}, last
        entries, complete = snapshot.folders[folder]
        if complete or place.path in entries:
            return entries.get(place.path)
        url = f"{self._api(place)}/paths-info/{snapshot.commit}"
        body = urlencode({"paths": place.path, "expand": "false"}).encode()
        found, _ = self._json(place, "POST", url, body)
        entries[place.path] = found[0] if found else None
        return entries[place.path]

    def _tree(
        self, place: _Place, snapshot: _Snapshot, *, recursive: bool
    ) -> Iterator[tuple[_Page, bool]]:
        """A folder's listing by pages, and whether each is the last."""
        path = f"/{quote(place.path, safe='')}" if place.path else ""
        query = f"recursive={'true' if recursive else 'false'}&expand=false"
        url: str | None = f"{self._api(place)}/tree/{snapshot.commit}{path}?{query}"
        while url is not None:
            page, response = self._json(place, "GET", url)
            for entry in page:
                if not hf_cache.is_inside(entry["path"]):
                    raise ReadError(
                        f"{place.url}: the hub lists {entry['path']!r}, which is not in the repository"
                    )
            following = _NEXT.search(response.headers.get("link", ""))
            url = self._here(following[1]) if following else None
            yield page, url is None

    def _remote(self, place: _Place, snapshot: _Snapshot) -> File:
        known, complete = snapshot.folders.get(place.path.rpartition("/")[0], ({}, False))
        if complete and place.path not in known:
            raise self._missing(place, snapshot)
        prefix = constants.REPO_TYPES_URL_PREFIXES.get(place.repo.kind, "")
        url = f"{self._endpoint}/{prefix}{place.repo.id}/resolve/{snapshot.commit}/{quote(place.path)}"
        try:
            headers, located = self._locate(place, url)
        except hf_errors.NoEntryError as error:
            raise self._missing(place, snapshot) from error
        etag = (headers.get("x-linked-etag") or headers.get("etag") or "").removeprefix("W/")
        size = headers.get("x-linked-size") or headers.get("content-length", "")
        if "x-repo-commit" not in headers or not etag or not size.isdecimal():
            raise ReadError(
                f"{place.url}: {self._endpoint} does not answer as a hub does (X-Repo-Commit, ETag and a size are "
                "expected): if HF_ENDPOINT is set, does it name one? Is there a proxy that leaves headers out?"
            )
        etag = etag.strip('"')
        renewing, mine = threading.Lock(), threading.local()

        def locate(renew: bool) -> Located:
            nonlocal located
            with renewing:
                # Of the threads whose address has expired, the first asks for a new one.
                if renew and getattr(mine, "located", None) is located:
                    located = self._locate(place, url)[1]
                mine.located = located
                return located

        checksum = hf_cache.checksum_of(etag)
        # Which etag the other host gives is unknown; a commit's files do not change.
        file = RemoteFile(self._client, place.url, int(size), None, locate, checksum=checksum)
        file.etag = etag
        return file

    def _locate(self, place: _Place, url: str) -> tuple[Mapping[str, str], Located]:
        """What the hub says of a file, and where its bytes are: there, or elsewhere, where the token is not sent."""
        headers: dict[str, str] = {}
        for _ in range(_REDIRECTS):
            response = self._ask(place, "HEAD", url)
            # Those of a redirect itself are about the file, but for its own length and etag.
            moved = 300 <= response.status < 400 and "location" in response.headers
            own = ("content-length", "etag") if moved else ()
            headers = {k: v for k, v in response.headers.items() if k not in own} | headers
            if not moved:
                return headers, Located(url, self._credentials(url))
            url = urljoin(url, response.headers["location"])
            if {"x-linked-size", "x-linked-etag"} <= headers.keys():
                return headers, Located(url, self._credentials(url))
        raise ReadError(f"{place.url}: more than {_REDIRECTS} redirects on the hub")

    def _download(self, place: _Place, snapshot: _Snapshot, cache: HubCache) -> Path:
        from huggingface_hub.errors import HfHubHTTPError

        token = self._secret()
        download = Download(cache, place.repo, snapshot.commit, place.path, self._endpoint, token)
        try:
            path = download.run(place.url, self._options, self._closing)
            cache.remember(place.repo, place.revision, snapshot.commit)
        except HfHubHTTPError as error:
            if error.response.headers.get("x-error-code") == "EntryNotFound":
                raise self._missing(place, snapshot) from error
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            raise hf_errors.explain(
                self._asked(place, token), error.response.status_code, headers
            ) from error
        except OSError as error:
            raise ReadError(f"{cache.folder}: cannot be written: {error.strerror}") from error
        return path

    def _ask(
        self,
        place: _Place,
        method: str,
        url: str,
        body: bytes = b"",
        *,
        client: HttpClient | None = None,
    ) -> Response:
        """An answer of the hub, redirects of a HEAD included. Raises what a status of failure means there."""
        headers = self._credentials(url)
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        response = (client or self._client).request(
            method, url, headers, body, what=place.url, cancellation=self._closing,
            follow=method != "HEAD", accept=(400, 401, 403, 404),
        )  # fmt: skip
        if response.status >= 400:
            token = headers.get("Authorization")
            raise hf_errors.explain(self._asked(place, token), response.status, response.headers)
        return response

    def _json(
        self,
        place: _Place,
        method: str,
        url: str,
        body: bytes = b"",
        *,
        client: HttpClient | None = None,
    ) -> tuple[Any, Response]:
        """What the hub answers, and the answer. One that is cut short within a proxy is asked for again."""
        for _ in range(_TRIES):
            response = self._ask(place, method, url, body, client=client)
            with contextlib.suppress(ValueError):
                return json.loads(response.body), response
        raise ReadError(
            f"{place.url}: {self._endpoint} answers something else than JSON: if HF_ENDPOINT is set, "
            "does it name a hub? Is there a proxy that answers instead?"
        )

    def _credentials(self, url: str) -> dict[str, str]:
        token = self._secret() if Origin.of(url) == Origin.of(self._endpoint) else None
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _secret(self) -> str | None:
        if isinstance(self._token, str):
            return self._token
        if self._token is False or (
            self._token is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
        ):
            return None
        try:
            return get_token()
        except Exception as error:  # a file that cannot be read, or a service that gives none
            raise AccessError(
                f"the token in {hf_errors.token_source()} cannot be read: {error}"
            ) from error

    def _api(self, place: _Place) -> str:
        return f"{self._endpoint}/api/{place.repo.kind}s/{place.repo.id}"

    def _here(self, url: str) -> str:
        """A URL of the hub at the endpoint: mirrors give links to the hub that they mirror."""
        parts, here = urlsplit(url), urlsplit(self._endpoint)
        return parts._replace(scheme=here.scheme, netloc=here.netloc).geturl()

    def _asked(self, place: _Place, token: str | None) -> hf_errors.Asked:
        return hf_errors.Asked(
            place.url, place.repo.kind, place.repo.id, place.revision, place.path,
            self._endpoint, token is not None,
        )  # fmt: skip

    def _missing(self, place: _Place, snapshot: _Snapshot) -> ReadError:
        folder, _, name = place.path.rpartition("/")
        if self._about(place, snapshot) is not None:
            return ReadError(f"{place.url}: is a folder, expected a file")
        listed = snapshot.folders[folder][0]
        if not listed and folder:
            return self._missing(replace(place, path=folder), snapshot)
        names = sorted(path.rpartition("/")[2] for path in listed if listed[path] is not None)
        return hf_errors.missing(place.url, name, place.at(folder).rstrip("/"), names)

    def _not_cached(self, place: _Place) -> NotFoundError:
        folders = " and ".join(str(cache.folder) for cache in self._caches)
        why = "HF_HUB_OFFLINE is set" if self._offline else "the hub cannot be reached"
        return NotFoundError(f"{place.url}: {why}, and it is not in the cache ({folders})")

    def _entry(self, place: _Place, listed: Mapping[str, Any]) -> Entry:
        url = place.at(listed["path"])
        if listed["type"] != "file":
            return Entry(url + "/")
        lfs = listed.get("lfs") or {}
        etag = lfs.get("oid") or listed["oid"]
        return Entry(url, listed["size"], etag, checksum=hf_cache.checksum_of(etag))


def _entry_of(url: str, path: Path) -> Entry:
    """A file or folder in a cache."""
    if path.is_dir():
        return Entry(url.rstrip("/") + "/")
    etag = hf_cache.etag_of(path)
    return Entry(url, path.stat().st_size, etag, checksum=hf_cache.checksum_of(etag))
