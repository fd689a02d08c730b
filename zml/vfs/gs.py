"""gs:// : buckets of Google Cloud Storage, by its JSON API.

A name is taken as it is written: gs://bucket/a b?#%20.json. A folder is what names with its own and a "/" before their
rest make (zml.vfs.objects).

Credentials are Google's Application Default Credentials (zml.vfs.google); where none are found, requests go without, as
for public buckets. STORAGE_EMULATOR_HOST leads to an emulator, CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE to another
endpoint of the service, both as in Google's own tools.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from zml.errors import AccessError, NotFoundError, ReadError, UnsupportedError, UsageError
from zml.vfs.base import Checksum, Entry, File, FileSystem, Options
from zml.vfs.client import HttpClient, Response
from zml.vfs.google import Anonymous, Tokens, tokens
from zml.vfs.objects import folder_of, listed
from zml.vfs.remote import Located, RemoteFile

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")
_FIELDS = "name,size,generation,updated,crc32c,md5Hash,contentEncoding"
_REFUSED = (401, 403)
_TRIES = 4


class GcsFileSystem(FileSystem):
    """Objects by bucket and name."""

    def __init__(self, options: Options) -> None:
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        other = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE")
        base = (emulator or other or "https://storage.googleapis.com").rstrip("/")
        base = base if "://" in base else f"http://{base}"
        self._base = f"{base.removesuffix('/storage/v1')}/storage/v1/b/"
        self._emulated = emulator is not None
        self._client = HttpClient(options)
        self._lock = threading.Lock()
        self._found: Tokens | None = None

    def open(self, url: str) -> File:
        """Opens an object, pinned to its generation."""
        bucket, name = _split(url)
        if not name or name.endswith("/"):
            raise NotFoundError(f"{url}: a folder, expected a file")
        meta = self._meta(url, bucket, name)
        if meta.get("contentEncoding", "identity") not in ("", "identity"):
            raise UnsupportedError(
                f"{url}: it is stored with the Content-Encoding {meta['contentEncoding']}, and has no ranges so: "
                "upload it as it is"
            )
        entry = _entry(url, meta)
        # Another generation is refused with 412, which RemoteFile takes for a change.
        query = urlencode(
            {"alt": "media"} | ({"ifGenerationMatch": entry.etag} if entry.etag else {})
        )
        where = f"{self._object(bucket, name)}?{query}"

        def locate(renew: bool) -> Located:
            return Located(where, self._tokens().headers(renew))

        file = RemoteFile(self._client, url, entry.size or 0, None, locate, checksum=entry.checksum)
        file.etag = entry.etag
        return file

    def stat(self, url: str) -> Entry:
        """An object, or a folder if there is none of that name."""
        bucket, name = _split(url)
        if name and not name.endswith("/"):
            try:
                return _entry(url, self._meta(url, bucket, name))
            except NotFoundError:
                pass
        folder = folder_of(name)
        page = next(self._pages(url, bucket, {"prefix": folder, "maxResults": "1"}))
        if folder and not page.get("items"):
            raise NotFoundError(f"{url}: there is no such file or folder")
        return Entry(f"gs://{bucket}/{folder}")

    def list(self, url: str) -> Iterator[Entry]:
        """The objects and folders up to the next "/"."""
        return self._list(url, {"delimiter": "/"})

    def walk(self, url: str) -> Iterator[Entry]:
        """All objects below, a thousand a request."""
        return self._list(url, {})

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def _list(self, url: str, query: Mapping[str, str]) -> Iterator[Entry]:
        bucket, name = _split(url)
        folder = folder_of(name)
        found = not folder
        for page in self._pages(url, bucket, {"prefix": folder, **query}):
            items, folders = _lists(url, page)
            entries = {key: Entry(f"gs://{bucket}/{key}") for key in folders}
            for item in items:
                found = True
                # An object of a folder's name stands for the folder.
                if not item["name"].endswith("/"):
                    entries[item["name"]] = _entry(f"gs://{bucket}/{item['name']}", item)
            found = found or bool(entries)
            yield from listed(entries, folder)
        if not found:
            raise NotFoundError(f"{url}: there is no such folder")

    def _pages(self, url: str, bucket: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        token: str | None = None
        while True:
            asked = {"fields": f"nextPageToken,prefixes,items({_FIELDS})", **query}
            if token is not None:
                asked["pageToken"] = token
            target = f"{self._base}{quote(bucket)}/o?{urlencode(asked)}"
            page = self._json(url, target, f"there is no bucket {bucket}")
            yield page
            before, token = token, page.get("nextPageToken")
            if not token:
                return
            if token == before:
                raise ReadError(f"{url}: the server's listing does not go on")

    def _meta(self, url: str, bucket: str, name: str) -> dict[str, Any]:
        target = f"{self._object(bucket, name)}?{urlencode({'fields': _FIELDS})}"
        return self._json(
            url, target, f"there is no such file in the bucket {bucket}, or no such bucket"
        )

    def _object(self, bucket: str, name: str) -> str:
        return f"{self._base}{quote(bucket)}/o/{quote(name, safe='')}"

    def _json(self, url: str, target: str, missing: str) -> dict[str, Any]:
        """What the service says. An answer that is cut, which only its end tells, is asked for again."""
        for left in reversed(range(_TRIES)):
            response, whose = self._ask(url, target)
            if response.status == 404:
                said = _said(response)
                raise NotFoundError(f"{url}: {missing}{f' [{said}]' if said else ''}")
            if response.status in _REFUSED:
                raise AccessError(
                    f"{url}: access is refused to {whose}: it is not there, or storage.objects.get or "
                    f"storage.objects.list is not allowed [{response.status}: {_said(response)}]"
                )
            try:
                result = json.loads(response.body)
            except ValueError as error:
                if left == 0:
                    raise ReadError(f"{url}: the server's answer is no JSON: {error}") from error
            else:
                if not isinstance(result, dict):
                    raise _senseless(url, result)
                return result
        raise AssertionError

    def _ask(self, url: str, target: str) -> tuple[Response, str]:
        """A response, and whose credentials it is for. A token that is refused is renewed once."""
        found = self._tokens()
        for renew in (False, True):
            response = self._client.request(
                "GET", target, found.headers(renew), what=url, accept=(*_REFUSED, 404)
            )
            if response.status != 401:
                break
            if isinstance(found, Anonymous) and not renew:
                # A pod's metadata server may have come up since.
                with self._lock:
                    self._found = None
                found = self._tokens()
        return response, found.whose

    def _tokens(self) -> Tokens:
        with self._lock:
            if self._found is None:
                self._found = tokens(self._client, self._emulated)
            return self._found


def _split(url: str) -> tuple[str, str]:
    bucket, _, name = url.split("://", 1)[1].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{url}: {bucket!r} is no bucket's name; expected gs://bucket/name")
    return bucket, name


def _lists(url: str, page: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects and the folders of a page."""
    items, folders = page.get("items", []), page.get("prefixes", [])
    try:
        if all(isinstance(x, str) for x in [*folders, *(item["name"] for item in items)]):
            return items, folders
    except (TypeError, KeyError):
        pass
    raise _senseless(url, page)


def _entry(url: str, meta: Mapping[str, Any]) -> Entry:
    try:
        updated = meta.get("updated")
        seconds = datetime.fromisoformat(updated).timestamp() if updated else None
        generation = meta.get("generation")
        size = int(meta["size"])
        return Entry(url, size, generation and str(generation), seconds, _checksum(meta))
    except (ValueError, TypeError, KeyError) as error:
        raise _senseless(url, meta) from error


def _senseless(url: str, said: object) -> ReadError:
    return ReadError(
        f"{url}: the server's answer has not what Google Cloud Storage documents: {str(said)[:200]}"
    )


def _checksum(meta: Mapping[str, Any]) -> Checksum | None:
    """Every object has a CRC; those that were composed have no MD5."""
    for algorithm, field in (("crc32c", "crc32c"), ("md5", "md5Hash")):
        if meta.get(field):
            try:
                return Checksum(algorithm, base64.b64decode(meta[field], validate=True))
            except (binascii.Error, TypeError, ValueError):
                continue
    return None


def _said(response: Response) -> str:
    try:
        return str(json.loads(response.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.body[:200].decode("utf-8", "replace")
