"""Tells builds of a shared library apart, and knows one again after its symbols were stripped or its RPATH was set."""

import hashlib
import struct
from pathlib import Path
from typing import BinaryIO

_SECTIONS = (b".text", b".rodata", b".note.gnu.build-id")
_SAMPLE = 1 << 16


def identity(path: Path) -> str:
    """A short name of the library's code. For a file that is no 64-bit ELF file, of its size."""
    try:
        with path.open("rb") as file:
            return _of_sections(file)
    except (struct.error, ValueError, IndexError):
        return f"{path.stat().st_size} bytes"


def _of_sections(file: BinaryIO) -> str:
    head = _read(file, 0, 64)
    if head[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", head, 40)
    size, count, names = struct.unpack_from("<HHH", head, 58)
    headers = [
        struct.unpack("<IIQQQQIIQQ", _read(file, table + i * size, 64)) for i in range(count)
    ]
    strings = _read(file, headers[names][4], headers[names][5])
    digest = hashlib.sha256()
    found = False
    for header in headers:
        name = strings[header[0] : strings.index(b"\0", header[0])]
        if name in _SECTIONS:
            found = True
            offset, length = header[4], header[5]
            # The size and both ends: reading all of hundreds of megabytes takes longer than starting.
            digest.update(
                name + struct.pack("<Q", length) + _read(file, offset, min(length, _SAMPLE))
            )
            digest.update(_read(file, offset + max(0, length - _SAMPLE), min(length, _SAMPLE)))
    if not found:
        raise ValueError("no code in it")
    return digest.hexdigest()[:16]


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("cut short")
    return data
