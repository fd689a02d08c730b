"""A layer: a tar archive of entries that carry nothing of the machine they were made on.

PAX format, sorted by path, no times, no names of users, no set-user-ID bits; every folder on the way to an entry is
an entry too.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from tools.oci.compress import GzipWriter

_PERMISSIONS = 0o1777  # not the bits that make a program run as its owner
_WHITEOUT = ".wh."


class LayerError(Exception):
    """What the user has to mend, in one message."""


@dataclass(frozen=True)
class Entry:
    """A file, folder or link."""

    kind: bytes
    mode: int
    source: str
    """Where it comes from, for messages."""
    link: str = ""
    size: int = 0
    open: Callable[[], IO[bytes]] = field(default=io.BytesIO, compare=False)
    owner: int = 0


def folder(mode: int = 0o755, owner: int = 0, source: str = "") -> Entry:
    """A folder."""
    return Entry(tarfile.DIRTYPE, mode & _PERMISSIONS, source, owner=owner)


def link(target: str, source: str = "") -> Entry:
    """A symbolic link."""
    return Entry(tarfile.SYMTYPE, 0o777, source, target)


def content(data: bytes, mode: int = 0o644, source: str = "") -> Entry:
    """A file of these bytes."""
    return Entry(
        tarfile.REGTYPE, mode & _PERMISSIONS, source, size=len(data), open=lambda: io.BytesIO(data)
    )


def file(path: Path, mode: int = 0o644) -> Entry:
    """A file that is read when the layer is written: it may be larger than memory."""
    return Entry(
        tarfile.REGTYPE, mode, str(path), size=path.stat().st_size, open=lambda: path.open("rb")
    )


class Layer:
    """Entries by path, without a leading slash."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def add(self, path: str, entry: Entry) -> None:
        """Adds an entry. Two packages may share folders, and files of the same bytes, but not a path."""
        _check(path, entry)
        known = self.entries.setdefault(path, entry)
        if known is entry or (known.kind, known.link) == (entry.kind, entry.link) == (
            tarfile.DIRTYPE,
            "",
        ):
            return
        same = (known.kind, known.link, known.size) == (entry.kind, entry.link, entry.size)
        if not same or _read(known) != _read(entry):
            raise LayerError(
                f"{path} is in the layer twice: from {known.source} and from {entry.source}, and they differ"
            )

    def write(self, out: IO[bytes], compress: bool = True) -> None:
        """Writes the archive."""
        self._complete()
        sink = GzipWriter(out) if compress else out
        with tarfile.open(
            fileobj=cast(Any, sink), mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8"
        ) as archive:
            for path in sorted(self.entries, key=lambda path: path.split("/")):
                entry = self.entries[path]
                info = tarfile.TarInfo(path)
                info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.link
                info.size, info.uid, info.gid = entry.size, entry.owner, entry.owner
                with entry.open() as source:
                    archive.addfile(info, source if entry.kind == tarfile.REGTYPE else None)
        if isinstance(sink, GzipWriter):
            sink.close()

    def _complete(self) -> None:
        """Adds the folders that are missing. A path through a link would replace the link when it is unpacked."""
        for path in list(self.entries):
            parent = path.rpartition("/")[0]
            while parent:
                above = self.entries.setdefault(parent, folder())
                if above.kind != tarfile.DIRTYPE:
                    raise LayerError(
                        f"{path} (from {self.entries[path].source}) lies below {parent}, which is no folder: "
                        "give the path that the link leads to"
                    )
                parent = parent.rpartition("/")[0]


def _check(path: str, entry: Entry) -> None:
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise LayerError(
            f"path {path!r} (from {entry.source}): expected one relative to the root, without `..`"
        )
    if parts[-1].startswith(_WHITEOUT):
        raise LayerError(
            f"path {path!r} (from {entry.source}): a name with {_WHITEOUT} deletes files in an image"
        )


def _read(entry: Entry) -> bytes:
    with entry.open() as source:
        return source.read()
