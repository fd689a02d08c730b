"""Small ELF files, wheels and Debian packages, made by hand."""

import hashlib
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from platforms.sandbox.recipe import Locked

X86, ARM = 62, 183


def elf(
    needed: tuple[str, ...] = (),
    soname: str = "",
    runpath: str = "",
    strings: tuple[str, ...] = (),
    machine: int = X86,
    debug: bytes = b"",
) -> bytes:
    """A shared library of one segment, with `.dynstr`, `.dynamic`, `.rodata` and, where given, `.debug_info`."""
    names = bytearray(b"\0")

    def place(text: str) -> int:
        at = len(names)
        names.extend(text.encode() + b"\0")
        return at

    tags = [(1, place(name)) for name in needed]
    tags += [(14, place(soname))] if soname else []
    tags += [(29, place(runpath))] if runpath else []
    start = 64 + 2 * 56
    names += bytes(-(start + len(names)) % 8)
    tags = [*tags, (5, start), (10, len(names)), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    rodata = b"\0" + b"".join(text.encode() + b"\0" for text in strings)
    at_dynamic, at_rodata = start + len(names), start + len(names) + len(dynamic)
    end = at_rodata + len(rodata)
    titles = b"\0.dynstr\0.dynamic\0.rodata\0.debug_info\0.shstrtab\0"

    def section(
        title: bytes, kind: int, flags: int, at: int, size: int, link: int, entry: int
    ) -> bytes:
        name = titles.index(title)
        return struct.pack(
            "<IIQQQQIIQQ", name, kind, flags, at if flags else 0, at, size, link, 0, 1, entry
        )

    at_titles = end + len(debug)
    sections = [
        bytes(64),
        section(b".dynstr", 3, 2, start, len(names), 0, 0),
        section(b".dynamic", 6, 3, at_dynamic, len(dynamic), 1, 16),
        section(b".rodata", 1, 2, at_rodata, len(rodata), 0, 0),
        section(b".debug_info", 1, 0, end, len(debug), 0, 0),
        section(b".shstrtab", 3, 0, at_titles, len(titles), 0, 0),
    ]
    at_sections = at_titles + len(titles)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 3, machine, 1, 0, 64, at_sections, 0, 64, 56, 2, 64, 6, 5
    )
    load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, end, end, 4096)
    pointer = struct.pack(
        "<IIQQQQQQ", 2, 6, at_dynamic, at_dynamic, at_dynamic, len(dynamic), len(dynamic), 8
    )
    return b"".join([header, load, pointer, names, dynamic, rodata, debug, titles, *sections])


def wheel(
    folder: Path, members: dict[str, bytes], name: str = "tiny", license_: str = "MIT"
) -> Path:
    """A wheel of version 1.0."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nLicense: {license_}\n",
        )
    return path


def deb(folder: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A Debian package `tiny` of version 1.0-1, with its copyright file."""

    def tar(files: dict[str, bytes], symlinks: dict[str, str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo("./" + name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for name, target in symlinks.items():
                info = tarfile.TarInfo("./" + name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                archive.addfile(info)
        return buffer.getvalue()

    control = b"Package: tiny\nVersion: 1.0-1\nArchitecture: amd64\n"
    notice = {"usr/share/doc/tiny/copyright": b"Files: *\nLicense: Zlib\n"}
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar({"control": control}, {}),
        "data.tar.xz": tar(members | notice, links or {}),
    }
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode()
        content += part + b"\n" * (len(part) % 2)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_1.0-1_amd64.deb"
    path.write_bytes(content)
    return path


def locked(path: Path, version: str = "1.0") -> Locked:
    """What a lock says of a file."""
    content = path.read_bytes()
    return Locked(version, path.name, hashlib.sha256(content).hexdigest(), len(content))


def lock_file(path: Path, entries: dict[str, Locked]) -> Path:
    """A lock of wheels for linux_amd64."""
    packages: dict[str, Any] = {
        name: {
            "version": entry.version,
            "requires": [],
            "wheels": {
                "linux_amd64": {"file": entry.file, "sha256": entry.sha256, "size": entry.size}
            },
        }
        for name, entry in entries.items()
    }
    path.write_text(json.dumps({"python": "3.13", "packages": packages}))
    return path
