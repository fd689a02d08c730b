"""A Debian mirror of a few tiny packages in a local folder, for tests."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.bootstrap.fake_pgp import Key


@dataclass(frozen=True)
class Package:
    """A package: its fields, and its files (text: an executable file; a Path: a link to it)."""

    name: str
    files: Mapping[str, str | Path] = field(default_factory=dict)
    depends: str = ""
    version: str = "1.0-1"
    architecture: str = "all"
    installed_size: int = 1  # KiB, as declared
    in_pool: bool = True  # False: the index names it, and its file is missing

    def control(self) -> str:
        """The paragraph that describes the package."""
        lines = [
            f"Package: {self.name}",
            f"Version: {self.version}",
            f"Architecture: {self.architecture}",
            f"Installed-Size: {self.installed_size}",
            "Maintainer: nobody <nobody@example.invalid>",
            "Description: made for a test",
        ]
        return "\n".join(lines + ([f"Depends: {self.depends}"] if self.depends else [])) + "\n"

    def deb(self) -> bytes:
        """The package file."""
        members = {
            "debian-binary": b"2.0\n",
            "control.tar.gz": _tar({"control": self.control()}),
            "data.tar.gz": _tar(self.files),
        }
        out = b"!<arch>\n"
        for name, body in members.items():
            out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode()
            out += body + b"\n" * (len(body) % 2)
        return out


def _tar(files: Mapping[str, str | Path]) -> bytes:
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(folders | set(files)):
            info = tarfile.TarInfo("./" + name)
            body = files.get(name)
            info.mode = 0o755
            if body is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(body, Path):
                info.type, info.linkname = tarfile.SYMTYPE, str(body)
            else:
                info.size = len(body.encode())
            tar.addfile(info, io.BytesIO(body.encode()) if isinstance(body, str) else None)
    return out.getvalue()


def write_mirror(
    root: Path, packages: list[Package], arch: str, key: Key, suite: str = "forky"
) -> None:
    """Makes `root` a mirror that has `packages` for `arch` in a suite signed by `key`."""
    index = ""
    (root / "pool").mkdir(parents=True, exist_ok=True)
    for package in packages:
        deb = package.deb()
        path = f"pool/{package.name}_{package.version}_{package.architecture}.deb"
        if package.in_pool:
            (root / path).write_bytes(deb)
        index += package.control() + f"Filename: {path}\nSize: {len(deb)}\n"
        index += f"SHA256: {hashlib.sha256(deb).hexdigest()}\n\n"
    dist = root / "dists" / suite
    listing = dist / "main" / f"binary-{arch}" / "Packages"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text(index)
    release = (
        f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: Wed, 01 Jan 2020 00:00:00 UTC\n"
        f"Architectures: {arch}\nComponents: main\nSHA256:\n"
        f" {hashlib.sha256(index.encode()).hexdigest()} {len(index)} main/binary-{arch}/Packages\n"
    ).encode()
    (dist / "Release").write_bytes(release)
    (dist / "Release.gpg").write_bytes(key.sign(release))
