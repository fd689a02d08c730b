"""Where files come from: a wheel, a Debian package or an installed site-packages. Members are streamed."""

import email.parser
import hashlib
import lzma
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

BLOCK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


class SourceError(Exception):
    """A package is damaged, is another one than the lock names, or lacks a file."""


@dataclass(frozen=True)
class About:
    """What a package says of itself."""

    version: str
    license: str


class Source(Protocol):
    """A package that files are taken from."""

    def about(self) -> About:
        """Its version and licence."""
        ...

    def extract(self, members: dict[str, Path]) -> None:
        """Writes members to files, by their names in the package. Raises SourceError."""
        ...


def normal(name: str) -> str:
    """PEP 503's form of a package's name, with underscores, as the locks have it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def copy(source: IO[bytes], path: Path) -> None:
    """Writes a stream to a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        while block := source.read(BLOCK):
            out.write(block)


def check_hash(path: Path, sha256: str) -> None:
    """Raises SourceError for another file than the lock names."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if found != sha256:
        raise SourceError(
            f"{path.name}: sha256 is {found} ({path.stat().st_size} bytes), the lock says {sha256}; the download is "
            "damaged or another file: fetch it again"
        )


@dataclass(frozen=True)
class Wheel:
    """A wheel as it was downloaded."""

    path: Path

    def about(self) -> About:
        """From its METADATA."""
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            for name in archive.namelist():
                if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
                    return _metadata(archive.read(name).decode("utf-8", "replace"))
        raise SourceError(f"{self.path.name}: is no wheel: it has no *.dist-info/METADATA")

    def extract(self, members: dict[str, Path]) -> None:
        """Each member is decompressed block by block; its checksum is checked by zipfile at the end."""
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            there = {info.filename: info for info in archive.infolist()}
            for name, path in members.items():
                if name not in there:
                    raise _missing(self.path.name, name, there)
                if stat.S_ISLNK(there[name].external_attr >> 16):
                    raise SourceError(
                        f"{self.path.name}: {name} is a symbolic link: name its target"
                    )
                with archive.open(there[name]) as source:
                    copy(source, path)


@dataclass(frozen=True)
class Deb:
    """A Debian package: an ar archive of two tar archives. What stands in it as `./usr/x` is named `usr/x`."""

    path: Path

    def about(self) -> About:
        """From its control file; the licence is the first that its copyright file names."""
        control = self._text("control.tar", "control")
        fields = email.parser.HeaderParser().parsestr(control)
        copyright_ = self._text("data.tar", f"usr/share/doc/{fields['Package']}/copyright")
        found = re.search(r"^License: *(\S.*)$", copyright_, re.MULTILINE)
        return About(fields["Version"], found[1] if found else "")

    def extract(self, members: dict[str, Path]) -> None:
        """Links of the package are followed, within it."""
        with self._tar("data.tar") as archive:
            links = {
                member.name.removeprefix("./"): (
                    Path(member.name).parent / member.linkname
                ).as_posix()
                for member in archive
                if member.issym()
            }
        wanted: dict[str, list[Path]] = {}
        for name, path in members.items():
            target, steps = name, 0
            while target in links and steps < 8:
                target, steps = links[target].removeprefix("./"), steps + 1
            wanted.setdefault(target, []).append(path)
        there = set()
        with self._tar("data.tar") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                there.add(name)
                for path in wanted.pop(name, []) if member.isfile() else []:
                    copy(cast(IO[bytes], archive.extractfile(member)), path)
        for name in wanted:
            raise _missing(self.path.name, name, there)

    def _text(self, tar: str, name: str) -> str:
        with self._tar(tar) as archive:
            for member in archive:
                if member.name.removeprefix("./") == name and member.isfile():
                    return cast(IO[bytes], archive.extractfile(member)).read().decode()
        raise SourceError(f"{self.path.name}: is no whole Debian package: it has no {name}")

    @contextmanager
    def _tar(self, prefix: str) -> Iterator[tarfile.TarFile]:
        with _reading(self.path), self.path.open("rb") as file:
            if file.read(8) != b"!<arch>\n":
                raise SourceError(f"{self.path.name}: is no Debian package")
            while len(header := file.read(60)) == 60:
                name = header[:16].decode("ascii", "replace").strip().rstrip("/")
                size = int(header[48:58])
                if file.tell() + size > self.path.stat().st_size:
                    raise SourceError(f"{self.path.name}: is cut short in {name}; fetch it again")
                if name.startswith(prefix):
                    kind = name.removeprefix(prefix).removeprefix(".")
                    if kind not in ("xz", "gz", ""):
                        raise SourceError(
                            f"{self.path.name}: {name} is compressed in a way that is not read here"
                        )
                    member = _Window(file, size)
                    with tarfile.open(fileobj=cast(BinaryIO, member), mode="r|*") as archive:
                        yield archive
                    return
                file.seek(size + size % 2, 1)
        raise SourceError(f"{self.path.name}: is no whole Debian package: it has no {prefix}.*")


@dataclass(frozen=True)
class Installed:
    """A package that pip installed into `folder`."""

    folder: Path
    name: str

    def about(self) -> About:
        """From the METADATA that pip left."""
        for path in sorted(self.folder.glob("*.dist-info/METADATA")):
            if normal(path.parent.name.split("-")[0]) == self.name:
                return _metadata(path.read_text("utf-8", "replace"))
        raise SourceError(f"{self.folder}: {self.name} is not installed there")

    def extract(self, members: dict[str, Path]) -> None:
        """Copies files; a link that leads out of the folder is followed, as installers link into their caches."""
        for name, path in members.items():
            source = self.folder / name
            if not source.is_file():
                raise SourceError(f"{self.folder}: {name} of {self.name} is not there")
            with source.open("rb") as file:
                copy(file, path)


class _Window:
    """The next `left` bytes of a file, as a stream."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self._left = file, left

    def read(self, size: int) -> bytes:
        block = self._file.read(min(size, self._left))
        self._left -= len(block)
        return block


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise SourceError(
            f"{path.name}: is damaged or cut short: {error}; fetch it again"
        ) from error


def _metadata(text: str) -> About:
    fields = email.parser.HeaderParser().parsestr(text)
    classifiers = [
        value.split(" :: ")[-1]
        for value in fields.get_all("Classifier", [])
        if value.startswith("License :: ")
    ]
    license_ = fields["License-Expression"] or fields["License"] or ", ".join(classifiers)
    # Some wheels hold the whole text in this field.
    return About(fields["Version"], license_.strip().split("\n")[0])


def _missing(package: str, name: str, there: object) -> SourceError:
    names = cast("set[str]", set(there))  # type: ignore[call-overload]
    alike = sorted(
        other for other in names if Path(other).name.split(".")[0] == Path(name).name.split(".")[0]
    )
    hint = f"; it has {', '.join(alike[:5])}" if alike else ""
    return SourceError(f"{package}: has no {name}{hint}; mend the file list (sandbox.toml)")
