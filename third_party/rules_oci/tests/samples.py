"""Small layers and images for the tests."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

from third_party.rules_oci.oci.private import image
from third_party.rules_oci.oci.private.layout import Layout, encode

EMPTY: dict[str, Any] = {
    "annotations": {},
    "architecture": "amd64",
    "base": None,
    "cmd": None,
    "entrypoint": None,
    "env": {},
    "exposed_ports": None,
    "labels": {},
    "os": "linux",
    "user": "",
    "variant": "",
    "volumes": None,
    "workdir": "",
}


def layer(path: Path, text: str, zipped: bool = False) -> Path:
    """A tar archive with one file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(data.getvalue(), mtime=0) if zipped else data.getvalue())
    return path


def build(folder: Path, layers: list[Path], **attributes: Any) -> Layout:
    """The image of an oci_image with these attributes."""
    folder.mkdir()
    listed = []
    for number, tar in enumerate(layers):
        descriptor = folder / f"{number}.json"
        descriptor.write_bytes(encode(image.describe(tar, tar.stem)))
        listed.append({"tar": str(tar), "descriptor": str(descriptor)})
    output = folder / "layout"
    image.build({**EMPTY, **attributes, "layers": listed, "output": str(output)})
    return Layout(output)


def index(folder: Path, *images: Layout, **attributes: Any) -> Layout:
    """The index of an oci_image_index."""
    spec = {"images": [str(one.folder) for one in images], "output": str(folder), **attributes}
    image.index(spec)
    return Layout(folder)
