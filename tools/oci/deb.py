"""A Debian package as entries of a layer: nothing is installed and no maintainer script runs."""

from __future__ import annotations

import fnmatch
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.oci.archive import Entry, Layer, LayerError, content, folder, link

UNUSED = (
    "lib/systemd/*",
    "usr/lib/binfmt.d/*",
    "usr/lib/*/gconv/*",
    "usr/share/binfmts/*",
    "usr/share/bug/*",
    "usr/share/doc/*/[!c]*",
    "usr/share/doc/*/c[!o]*",
    "usr/share/i18n/*",
    "usr/share/info/*",
    "usr/share/lintian/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "usr/share/pixmaps/*",
)
"""What no program reads; copyright files stay, as their licences ask."""

_MERGED = ("bin", "lib", "lib64", "sbin")
_MAGIC = b"!<arch>\n"


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an ar archive."""
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise LayerError(f"{path} is no Debian package: expected it to start with {_MAGIC!r}")
    at = len(_MAGIC)
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode().rstrip().rstrip("/"), int(data[at + 48 : at + 58])
        yield name, data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def add(layer: Layer, path: Path, exclude: Sequence[str] = ()) -> None:
    """Adds the files of a package, and what scanners of images read about it."""
    found = set()
    for name, data in members(path):
        kind = name.partition(".")[0]
        if kind not in {"control", "data"}:
            continue
        found.add(kind)
        if name.endswith(".zst"):
            raise LayerError(
                f"{path}: {name} is compressed with zstd, which Python 3.13 cannot read: expected xz"
            )
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            if kind == "control":
                _add_status(layer, archive, path)
            else:
                _add_files(layer, archive, path, (*UNUSED, *exclude))
    if found != {"control", "data"}:
        raise LayerError(f"{path} is no Debian package: expected control.tar and data.tar in it")


def _add_files(layer: Layer, archive: tarfile.TarFile, path: Path, exclude: Sequence[str]) -> None:
    for member in archive:
        name = _merged(member.name.removeprefix("./").strip("/"), member)
        if name in {"", "."} or any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude):
            continue
        if (entry := _entry(archive, member, path)) is not None:
            layer.add(name, entry)


def _merged(name: str, member: tarfile.TarInfo) -> str:
    """A path with its folder in /usr, where /lib and its like lead since Debian 12."""
    top, slash, _ = name.partition("/")
    return "usr/" + name if top in _MERGED and (slash or member.isdir()) else name


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Entry | None:
    source = path.name
    if member.isdir():
        return folder(member.mode, source=source)
    if member.issym():
        return link(member.linkname, source)
    if member.isreg() or member.islnk():  # a hard link is the file itself here
        file = archive.extractfile(member)
        assert file is not None
        return content(file.read(), member.mode, source)
    raise LayerError(f"{path}: {member.name} is neither file, folder nor link")


def _add_status(layer: Layer, archive: tarfile.TarFile, path: Path) -> None:
    """dpkg's record, a file a package, where scanners look in images without dpkg."""
    record = archive.extractfile("./control")
    assert record is not None
    text = record.read()
    name = field(text.decode(), "Package")
    layer.add(f"var/lib/dpkg/status.d/{name}", content(text, source=path.name))


def field(control: str, name: str) -> str:
    """A one-line field of a control file."""
    for line in control.splitlines():
        if line.startswith(name + ": "):
            return line.partition(": ")[2]
    raise LayerError(f"no field {name} in the control file of a package")
