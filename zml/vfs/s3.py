"""s3:// : buckets of Amazon S3, and of what speaks its protocol.

A key is taken as it is written: s3://bucket/a b?#%20.json names the key "a b?#%20.json". A folder is what keys with its
name and a "/" before their rest make (zml.vfs.objects).

Credentials, profiles, regions and endpoints are those of the AWS tools (see zml.vfs.aws): environment, profile, web
identity, container, EC2's metadata server, AWS_ENDPOINT_URL and so on. Where no credentials are found, requests are not
signed, as for public buckets; AWS_NO_SIGN_REQUEST=true does not look for any. Credentials that are refused are an
error, and the request is not sent again without: that others may read a bucket should not hide that they are wrong.

TLS is that of zml.vfs.connections: the authority of a server of one's own is named in SSL_CERT_FILE, not AWS_CA_BUNDLE.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree as ET

from zml.errors import NotFoundError, ReadError, UnsupportedError, UsageError
from zml.vfs import xml
from zml.vfs.aws import Aws, Signed
from zml.vfs.base import Checksum, Entry, File, FileSystem, Options
from zml.vfs.client import HttpClient, Response
from zml.vfs.objects import folder_of, listed
from zml.vfs.remote import Located, RemoteFile
from zml.vfs.s3_errors import Failure

_REGION = re.compile(r"[a-z0-9-]{1,63}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# An object has one of them, of the whole content or of its parts' checksums; the first are the cheapest.
_CHECKSUMS = ("crc32c", "crc32", "crc64nvme", "sha256", "sha1")
_TRIES = 4
# What this module explains itself. Others are tried again, or the client's errors.
_EXPLAINED = frozenset(range(300, 500)) - {408, 425, 429}


class S3FileSystem(FileSystem):
    """Objects by bucket and key."""

    def __init__(self, options: Options) -> None:
        self._aws = Aws()
        self._client = HttpClient(options)
        self._lock = threading.Lock()
        self._regions: dict[str, str] = {}

    def open(self, url: str) -> File:
        """Opens an object, pinned to its ETag."""
        bucket, key = _split(url)
        if not key or key.endswith("/"):
            raise NotFoundError(f"{url}: a folder, expected a file")
        response = self._send("HEAD", url, bucket, key)
        entry = _stored(url, response.headers)
        pinned = {"If-Match": entry.etag} if entry.etag else {}
        signed = Signed(self._aws, "GET", response.url, self._region(bucket), {})

        def locate(renew: bool) -> Located:
            return Located(response.url, {**signed.headers(renew), **pinned})

        return RemoteFile(
            self._client, url, entry.size or 0, entry.etag, locate, checksum=entry.checksum
        )

    def stat(self, url: str) -> Entry:
        """An object, or a folder if there is none of that name."""
        bucket, key = _split(url)
        if key and not key.endswith("/"):
            try:
                return _stored(url, self._send("HEAD", url, bucket, key, explain=False).headers)
            except NotFoundError:
                pass
        folder = folder_of(key)
        for page in self._pages(url, bucket, {"prefix": folder, "max-keys": "1"}):
            if folder and page.find("Contents") is None:
                raise NotFoundError(f"{url}: there is no such file or folder")
            break
        return Entry(url.rstrip("/") + "/" if not folder else f"s3://{bucket}/{folder}")

    def list(self, url: str) -> Iterator[Entry]:
        """The objects and folders up to the next "/"."""
        return self._list(url, "/")

    def walk(self, url: str) -> Iterator[Entry]:
        """All objects below, a thousand a request."""
        return self._list(url, "")

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def _list(self, url: str, delimiter: str) -> Iterator[Entry]:
        bucket, key = _split(url)
        folder = folder_of(key)
        query = {"prefix": folder} | ({"delimiter": delimiter} if delimiter else {})
        found = not folder
        for page in self._pages(url, bucket, query):
            entries = {}
            # Not every server quotes as it is asked to.
            unquoted = unquote_plus if page.findtext("EncodingType") == "url" else str
            for each in page:
                if each.tag == "CommonPrefixes":
                    name = unquoted(each.findtext("Prefix", ""))
                    entries[name] = Entry(f"s3://{bucket}/{name}")
                elif each.tag == "Contents":
                    name = unquoted(each.findtext("Key", ""))
                    found = True
                    # An object of a folder's name stands for the folder.
                    if not name.endswith("/"):
                        entries[name] = _entry(f"s3://{bucket}/{name}", each)
            found = found or bool(entries)
            yield from listed(entries, folder)
        if not found:
            raise NotFoundError(f"{url}: there is no such folder")

    def _pages(self, url: str, bucket: str, query: Mapping[str, str]) -> Iterator[ET.Element]:
        token: str | None = ""
        while token is not None:
            asked = {"list-type": "2", "encoding-type": "url", **query}
            if token:
                asked["continuation-token"] = token
            text = "&".join(f"{k}={quote(v, safe='-_.~')}" for k, v in asked.items())
            page = self._page(url, bucket, text)
            yield page
            more = page.findtext("IsTruncated", "false") == "true"
            following = page.findtext("NextContinuationToken") if more else None
            if more and (not following or following == token):
                raise ReadError(
                    f"{url}: the server's listing is cut, and does not say how it goes on"
                )
            token = following

    def _page(self, url: str, bucket: str, query: str) -> ET.Element:
        """A page of a listing. One that is cut, which only its end tells, is asked for again."""
        for left in reversed(range(_TRIES)):
            response = self._send("GET", url, bucket, "", query)
            try:
                return xml.parse(response.body)
            except ET.ParseError as error:
                if left == 0:
                    raise ReadError(
                        f"{url}: the server's listing cannot be read: {error}"
                    ) from error
        raise AssertionError

    def _send(
        self, method: str, url: str, bucket: str, key: str, query: str = "", *, explain: bool = True
    ) -> Response:
        """A response of success. The bucket's region is found on the way.

        `explain`: ask again why there is no such file; only other methods' responses than HEAD's have a body.
        """
        moved = renewed = False
        while True:
            region = self._region(bucket)
            target = f"{self._aws.url(bucket, region)}/{quote(key, safe='/-_.~')}"
            if query:
                target += f"?{query}"
            headers = {"x-amz-checksum-mode": "ENABLED"} if method == "HEAD" else {}
            response = self._ask(method, target, region, headers, url)
            if response.status < 300:
                return response
            failure = Failure.of(response)
            unknown = failure.region in (None, region)
            if method == "HEAD" and unknown and (explain or response.status != 404):
                said = self._ask("GET", target, region, {"Range": "bytes=0-0"}, url)
                failure = failure if said.status < 300 else Failure.of(said)
            if not moved and (not unknown or failure.is_elsewhere):
                moved = True
                if self._finds(bucket, failure, region, url):
                    continue
            if not renewed and failure.is_expired:
                renewed = True
                self._aws.renew()
                continue
            raise failure.error(url, bucket, self._aws)

    def _ask(
        self, method: str, target: str, region: str, headers: Mapping[str, str], url: str
    ) -> Response:
        unsigned = {key: value for key, value in headers.items() if not key.startswith("x-amz")}
        signed = {key: value for key, value in headers.items() if key.startswith("x-amz")}
        return self._client.request(
            method,
            target,
            {**self._aws.sign(method, target, region, signed), **unsigned},
            what=url,
            follow=False,
            accept=_EXPLAINED,
        )

    def _finds(self, bucket: str, failure: Failure, asked: str, url: str) -> bool:
        """Notes where a bucket is that is not in the region asked: the failure says it, or the bucket itself."""
        region = failure.region
        if region is None:
            response = self._ask("HEAD", f"{self._aws.url(bucket, asked)}/", asked, {}, url)
            region = response.headers.get("x-amz-bucket-region")
        # It becomes part of a host's name.
        if region in (None, asked) or not _REGION.fullmatch(region):
            return False
        with self._lock:
            self._regions[bucket] = region
        return True

    def _region(self, bucket: str) -> str:
        with self._lock:
            return self._regions.get(bucket, self._aws.region)


def checksum_of(headers: Mapping[str, str]) -> Checksum | None:
    """That of an object's whole content, if S3 has one. One of the checksums of parts is none."""
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    for algorithm in _CHECKSUMS:
        value = headers.get(f"x-amz-checksum-{algorithm}")
        # Before checksums had a type, "-" and the number of parts told.
        if value and "-" not in value:
            try:
                return Checksum(algorithm, base64.b64decode(value, validate=True))
            except binascii.Error:
                return None
    return None


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.split("://", 1)[1].partition("/")
    if bucket.startswith("arn:") or bucket.endswith("--x-s3"):
        raise UnsupportedError(
            f"{url}: access points by ARN and directory buckets are not supported; "
            "expected a bucket's name, or an access point's alias"
        )
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{url}: {bucket!r} is no bucket's name; expected s3://bucket/key")
    return bucket, key


def _stored(url: str, headers: Mapping[str, str]) -> Entry:
    """What a response to HEAD says."""
    size, modified = headers.get("content-length", ""), headers.get("last-modified")
    if not size.isdecimal():
        raise ReadError(f"{url}: the server does not say the size of the object")
    try:
        seconds = parsedate_to_datetime(modified).timestamp() if modified else None
    except ValueError:
        seconds = None
    return Entry(url, int(size), headers.get("etag"), seconds, checksum_of(headers))


def _entry(url: str, found: ET.Element) -> Entry:
    """What a listing says."""
    size, modified = found.findtext("Size", ""), found.findtext("LastModified")
    try:
        seconds = datetime.fromisoformat(modified).timestamp() if modified else None
    except ValueError:
        seconds = None
    return Entry(url, int(size) if size.isdecimal() else None, found.findtext("ETag"), seconds)
