"""An OCI image layout: a folder with `oci-layout`, `index.json`, and blobs named by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

Descriptor = dict[str, Any]
"""`mediaType`, `digest`, `size`, and what may be said beside them."""


class OciError(Exception):
    """What the user has to mend, in one message."""


def encode(value: Any) -> bytes:
    """JSON, the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(content: bytes) -> str:
    """The name of a blob."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Layout:
    """A layout on disk, to be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "index.json"
        if not (folder / "oci-layout").is_file() or not index.is_file():
            raise OciError(f"{folder} is no OCI layout: expected oci-layout and index.json in it")
        roots = json.loads(index.read_bytes())["manifests"]
        if len(roots) != 1:
            raise OciError(
                f"{index}: expected one image or one index of images, found {len(roots)}"
            )
        self.root: Descriptor = roots[0]
        """The image or index that the layout holds."""

    def path(self, descriptor: Descriptor) -> Path:
        """The file of a blob."""
        algorithm, _, name = descriptor["digest"].partition(":")
        return self.folder / "blobs" / algorithm / name

    def json(self, descriptor: Descriptor) -> Any:
        """The value of a manifest, index or config."""
        return json.loads(self.path(descriptor).read_bytes())

    def images(self) -> list[Descriptor]:
        """The manifests of the layout's images, one for a layout that is no index."""
        if self.root["mediaType"] != INDEX:
            return [self.root]
        manifests: list[Descriptor] = self.json(self.root)["manifests"]
        return manifests

    def blobs(self, image: Descriptor) -> Iterator[Descriptor]:
        """Config and layers of an image, the same layer once."""
        manifest = self.json(image)
        seen = set()
        for blob in [manifest["config"], *manifest["layers"]]:
            if blob["digest"] not in seen:
                seen.add(blob["digest"])
                yield blob


class Writer:
    """A layout that is made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)

    def add(self, media_type: str, value: Any) -> Descriptor:
        """Writes a value as JSON."""
        content = encode(value)
        descriptor = {"mediaType": media_type, "digest": digest(content), "size": len(content)}
        self._target(descriptor).write_bytes(content)
        return descriptor

    def copy(self, descriptor: Descriptor, source: Path) -> None:
        """Takes over a blob that `source` holds."""
        size = source.stat().st_size
        if size != descriptor["size"]:
            raise OciError(
                f"{source} has {size} bytes, expected the {descriptor['size']} of {descriptor['digest']}"
            )
        target = self._target(descriptor)
        if not target.exists():
            shutil.copyfile(source, target)

    def copy_image(self, layout: Layout, image: Descriptor) -> None:
        """Takes over an image of another layout with all its blobs."""
        self.copy(image, layout.path(image))
        for blob in layout.blobs(image):
            self.copy(blob, layout.path(blob))

    def finish(self, root: Descriptor) -> None:
        """Names the image or index that the layout holds."""
        (self._folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [root]}
        (self._folder / "index.json").write_bytes(encode(index))

    def _target(self, descriptor: Descriptor) -> Path:
        return self._blobs / descriptor["digest"].removeprefix("sha256:")
