"""Pushes an image or an index to a registry: only the blobs that are not there."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .layout import INDEX, Descriptor, Layout, OciError
from .registry import Registry, RequestError

_NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass
class Report:
    """What a push did."""

    digest: str = ""
    uploaded: dict[str, int] = field(default_factory=dict)
    """Digests and sizes of the blobs that were sent."""
    present: list[str] = field(default_factory=list)
    mounted: list[str] = field(default_factory=list)


def split(repository: str) -> tuple[str, str]:
    """Host and name of a repository."""
    host, slash, name = repository.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise OciError(
            f"repository {repository!r}: expected HOST/NAME, such as localhost:5000/team/image"
        )
    if not _NAME.fullmatch(name):
        raise OciError(
            f"repository {repository!r}: {name!r} is no name of a repository: expected lower-case letters, "
            "digits and single separators, without a tag"
        )
    return host, name


def push(
    layout: Layout, registry: Registry, name: str, tags: Sequence[str], mounts: Sequence[str] = ()
) -> Report:
    """Pushes blobs, then manifests, then the tags; whoever pulls by a tag meanwhile gets the old image whole.

    `mounts` are other repositories of the registry that may hold blobs already.
    """
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise OciError(f"tag {tag!r}: expected at most 128 letters, digits, `.`, `_` and `-`")
    session = _Session(layout, registry, name, mounts)
    images = layout.images()
    blobs = {blob["digest"]: blob for image in images for blob in layout.blobs(image)}
    with ThreadPoolExecutor(4) as pool:
        # A list, so that the first failure is raised here.
        list(pool.map(session.blob, blobs.values()))
    if layout.root["mediaType"] == INDEX:
        for image in images:
            session.manifest(image, image["digest"])
    for reference in [layout.root["digest"], *tags]:
        session.manifest(layout.root, reference)
    session.report.digest = layout.root["digest"]
    return session.report


class _Session:
    def __init__(
        self, layout: Layout, registry: Registry, name: str, mounts: Sequence[str]
    ) -> None:
        self._layout, self._registry, self._name = layout, registry, name
        self._mounts = [mount for mount in mounts if mount != name]
        self._scope = f"repository:{name}:pull,push"
        self.report = Report()

    def _request(self, method: str, path: str, scope: str | None = None, **rest: Any) -> Any:
        url = path if "://" in path else f"/v2/{self._name}/{path}"
        return self._registry.request(method, url, scope or self._scope, **rest)

    def _is_there(self, digest: str) -> bool:
        answer = self._request("HEAD", f"blobs/{digest}", accept=(404,))
        return bool(answer.status != 404)

    def blob(self, blob: Descriptor) -> None:
        """Sees to it that the registry has a blob."""
        digest: str = blob["digest"]
        if self._is_there(digest):
            self.report.present.append(digest)
            return
        for source in self._mounts:
            scope = f"{self._scope} repository:{source}:pull"
            query = f"blobs/uploads/?mount={digest}&from={source}"
            # A source that this user may not read is no reason to fail: the blob is here.
            answer = self._request("POST", query, scope, body=b"", accept=(400, 401, 403, 404, 405))
            if answer.status == 201:
                self.report.mounted.append(digest)
                return
        self._upload(blob)
        self.report.uploaded[digest] = blob["size"]
        print(f"pushed {digest} ({blob['size'] / 1e6:.1f} MB)", file=sys.stderr)

    def _upload(self, blob: Descriptor) -> None:
        digest = blob["digest"]
        for attempt in range(3):
            try:
                begun = self._request("POST", "blobs/uploads/", body=b"")
                joint = "&" if "?" in begun.location else "?"
                self._request(
                    "PUT",
                    f"{begun.location}{joint}digest={digest}",
                    body=self._layout.path(blob),
                    headers={"Content-Type": "application/octet-stream"},
                )
                return
            except RequestError as error:
                # An upload that was cut may have arrived whole, or be gone; one that is refused stays so.
                if self._is_there(digest):
                    return
                if attempt == 2 or error.status not in {0, 404, 416}:
                    raise

    def manifest(self, manifest: Descriptor, reference: str) -> None:
        """Puts a manifest or an index under a digest or a tag."""
        answer = self._request(
            "PUT",
            f"manifests/{reference}",
            body=self._layout.path(manifest).read_bytes(),
            headers={"Content-Type": manifest["mediaType"]},
        )
        got = answer.headers.get("docker-content-digest", manifest["digest"])
        if got != manifest["digest"]:
            raise OciError(
                f"the registry stored {reference} as {got}, expected {manifest['digest']}"
            )
