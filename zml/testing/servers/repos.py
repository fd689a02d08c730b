"""What the repositories of a hub under test hold, in git's and LFS' names."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Files = Path | Mapping[str, bytes]
"""What a commit holds: a folder, or contents by path."""

_LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".npz", ".parquet")
_LFS_BYTES = 10 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    path: str
    size: int
    oid: str
    """git's name of it: for an LFS file, of its pointer."""
    sha256: str | None
    """Of an LFS file."""
    content: bytes | Path

    @property
    def etag(self) -> str:
        """What the hub names this version of the file."""
        return self.sha256 or self.oid

    def open(self) -> BinaryIO:
        """Its bytes."""
        return (
            io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")
        )


def commit_of(files: Files) -> Iterator[Blob]:
    """The files of a commit: large ones, and those of binary kinds, are in LFS."""
    if isinstance(files, Path):
        paths = sorted(path for path in files.rglob("*") if path.is_file())
        contents: dict[str, bytes | Path] = {
            path.relative_to(files).as_posix(): path for path in paths
        }
    else:
        contents = dict(files)
    for path, content in contents.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        large = path.endswith(_LFS_SUFFIXES) or size > _LFS_BYTES
        if large:
            digest = _digest("sha256", b"", content)
            pointer = _pointer(digest, size)
            oid = _digest("sha1", f"blob {len(pointer)}\0".encode(), pointer)
            yield Blob(path, size, oid, digest, content)
        else:
            oid = _digest("sha1", f"blob {size}\0".encode(), content)
            yield Blob(path, size, oid, None, content)


def _pointer(digest: str, size: int) -> bytes:
    """What git holds of an LFS file."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
    return text.encode()


def _digest(algorithm: str, prefix: bytes, content: bytes | Path) -> str:
    digest = hashlib.new(algorithm, prefix)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def listing(blobs: Mapping[str, Blob], path: str, recursive: bool) -> list[dict[str, object]]:
    """What the tree listing has of a folder: nothing where there is none."""
    prefix = f"{path}/" if path else ""
    folders: dict[str, None] = {}
    files: list[dict[str, object]] = []
    for blob in blobs.values():
        if not blob.path.startswith(prefix):
            continue
        parts = blob.path.removeprefix(prefix).split("/")
        above = [prefix + "/".join(parts[:depth]) for depth in range(1, len(parts))]
        folders.update(dict.fromkeys(above if recursive else above[:1]))
        if not recursive and len(parts) > 1:
            continue
        entry: dict[str, object] = {
            "type": "file", "oid": blob.oid, "size": blob.size, "path": blob.path,
        }  # fmt: skip
        if blob.sha256 is not None:
            pointer = len(_pointer(blob.sha256, blob.size))
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": pointer}
        files.append(entry)
    listed: list[dict[str, object]] = [
        {
            "type": "directory",
            "oid": hashlib.sha1(name.encode()).hexdigest(),
            "size": 0,
            "path": name,
        }
        for name in folders
    ]
    return listed + files
