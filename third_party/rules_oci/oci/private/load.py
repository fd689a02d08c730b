"""Writes an image as one archive, for `docker load` and `podman load` or into a file."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from .layout import INDEX, Descriptor, Layout, OciError, encode


def write(layout: Layout, names: Sequence[str], form: str, out: IO[bytes]) -> None:
    """Writes the archive: an OCI layout, and for docker what its own format has beside it.

    Docker's newer versions write both in one archive too; older ones and podman read the one they know.
    """
    names = [_full(name) for name in names]
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _bytes(archive, "oci-layout", encode({"imageLayoutVersion": "1.0.0"}))
        _bytes(archive, "index.json", encode(_index(layout.root, names)))
        if form == "docker":
            _bytes(archive, "manifest.json", encode([_docker(layout, names)]))
        written = set()
        roots = [layout.root] if layout.root["mediaType"] == INDEX else []
        for image in layout.images():
            for blob in [*roots, image, *layout.blobs(image)]:
                if blob["digest"] not in written:
                    written.add(blob["digest"])
                    _file(archive, _place(blob), layout.path(blob))


def load(layout: Layout, names: Sequence[str], form: str, output: str | None) -> None:
    """Hands the archive to docker or podman, whichever is there, or writes it to `output` (`-` is stdout)."""
    if output:
        with open(1 if output == "-" else output, "wb", closefd=output != "-") as file:
            write(layout, names, form, file)
        return
    loader = shutil.which("docker") or shutil.which("podman")
    if loader is None:
        raise OciError(
            "neither docker nor podman is on PATH: --output=FILE writes the archive to a file"
        )
    with subprocess.Popen([loader, "load"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            write(layout, names, form, process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended before the archive did: its exit code and its own message say why
    if process.returncode:
        raise OciError(f"`{loader} load` failed with exit code {process.returncode} (see above)")


def _full(name: str) -> str:
    """A name with its tag, which docker adds to names without one, but not to those in an archive."""
    return name if ":" in name.rpartition("/")[2] else name + ":latest"


def _index(root: Descriptor, names: Sequence[str]) -> dict[str, Any]:
    entries = [
        {
            **root,
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            },
        }
        for name in names
    ]
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries or [root]}


def _docker(layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    if layout.root["mediaType"] == INDEX:
        raise OciError(
            'format "docker" holds one image, and this is an index: load one of its images, '
            'or use format = "oci"'
        )
    manifest = layout.json(layout.root)
    return {
        "Config": _place(manifest["config"]),
        "RepoTags": list(names),
        "Layers": [_place(layer) for layer in manifest["layers"]],
    }


def _place(blob: Descriptor) -> str:
    return "blobs/" + blob["digest"].replace(":", "/")


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_member(name, len(content)), io.BytesIO(content))


def _file(archive: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as file:
        archive.addfile(_member(name, path.stat().st_size), file)
