"""Reads and strips ELF files: 64 bits, little endian, of any processor. Files are never held in memory whole."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"\x7fELF"
BLOCK = 1 << 20
MACHINES = {62: "x86_64", 183: "aarch64"}

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<QQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_SHT_NULL, _SHT_STRTAB, _SHT_NOBITS = 0, 3, 8
_SHF_ALLOC = 2
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29

# What a program passes to dlopen is a C string of its own.
_LIBRARY = re.compile(rb"\0(lib[\w.+-]{1,80}\.so(?:\.\d+)*)(?=\0)", re.ASCII)
_LONGEST = 128


class ElfError(Exception):
    """The file is no ELF file that can be handled, or is cut short."""


@dataclass(frozen=True)
class Dynamic:
    """What the loader is told by a file."""

    machine: str
    needed: tuple[str, ...] = ()
    soname: str = ""
    paths: tuple[str, ...] = ()
    """DT_RPATH or DT_RUNPATH."""


@dataclass(frozen=True)
class _Section:
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int

    @property
    def in_memory(self) -> bool:
        return bool(self.flags & _SHF_ALLOC)

    @property
    def end(self) -> int:
        return self.offset + (0 if self.kind == _SHT_NOBITS else self.size)


def is_elf(path: Path) -> bool:
    """Whether a file begins as ELF files do."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_dynamic(path: Path) -> Dynamic:
    """The libraries that a file needs, its own name and search path. Raises ElfError."""
    with path.open("rb") as file:
        header = _read_header(file)
        machine = MACHINES.get(header[2], f"machine {header[2]}")
        segments = _read_table(file, header[5], header[10], _SEGMENT)
        entries: list[tuple[int, int]] = []
        for segment in segments:
            if segment[0] == _PT_DYNAMIC:
                block = _read_at(file, segment[2], segment[5])
                whole = len(block) // _DYNAMIC.size * _DYNAMIC.size
                entries = list(_DYNAMIC.iter_unpack(block[:whole]))
        tables = [value for tag, value in entries if tag == _DT_STRTAB]
        if not tables:
            return Dynamic(machine)
        at = _offset_of(tables[0], segments)

        def text(tag: int) -> tuple[str, ...]:
            return tuple(_read_text(file, at + value) for t, value in entries if t == tag)

        return Dynamic(
            machine,
            text(_DT_NEEDED),
            next(iter(text(_DT_SONAME)), ""),
            text(_DT_RPATH) + text(_DT_RUNPATH),
        )


def strip(path: Path) -> None:
    """Drops what no loader reads: symbol tables for debuggers, debug information, comments. Raises ElfError.

    What is in memory at run time stays where it is in the file, so the processor does not matter; the sections kept
    keep their numbers, since dynamic symbols name them.
    """
    with path.open("r+b") as file:
        header = list(_read_header(file))
        segments = _read_table(file, header[5], header[10], _SEGMENT)
        sections = [_Section(*s) for s in _read_table(file, header[6], header[12], _SECTION)]
        if not segments or not any(section.in_memory for section in sections):
            return
        size = file.seek(0, 2)
        if header[13] >= len(sections):
            raise ElfError("has no table of the names of its sections")
        names = sections[header[13]]
        last = max(i for i, section in enumerate(sections) if section.in_memory)
        kept = sections[: last + 1]
        end = max(
            header[5] + header[10] * _SEGMENT.size,
            *(segment[2] + segment[5] for segment in segments),
            *(section.end for section in kept if section.in_memory),
        )
        if end > size:
            raise ElfError(f"is cut short: {size} bytes, expected {end}")
        table = bytearray(b"\0")
        written = []
        for section in kept:
            if not section.in_memory:
                written.append(bytes(_SECTION.size))
                continue
            name = _read_text(file, names.offset + section.name).encode()
            link = section.link if section.link <= last else 0
            written.append(
                _SECTION.pack(
                    len(table), *_fields(section)[1:6], link, section.info, *_fields(section)[8:]
                )
            )
            table += name + b"\0"
        place = len(table)
        table += b".shstrtab\0"
        start = end + -(end + len(table)) % 8
        written.append(_SECTION.pack(place, _SHT_STRTAB, 0, 0, start, len(table), 0, 0, 1, 0))
        file.truncate(end)
        file.seek(start)
        file.write(table)
        header[6], header[12], header[13] = start + len(table), len(written), len(kept)
        file.write(b"".join(written))
        file.seek(0)
        file.write(_HEADER.pack(*header))


def library_names(path: Path) -> frozenset[str]:
    """The C strings in a file that look like the name of a shared library: what it may open by name."""
    found: set[str] = set()
    rest = b"\0"
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            block = rest + block
            found.update(match[1].decode() for match in _LIBRARY.finditer(block))
            rest = block[-_LONGEST:]
    return frozenset(found)


def _fields(section: _Section) -> tuple[int, ...]:
    return tuple(vars(section).values())


def _read_header(file: BinaryIO) -> tuple[int, ...]:
    """Its fields: 2 machine; 5, 10 offset and count of segments; 6, 12 of sections; 13 the section of their names."""
    block = _read_at(file, 0, _HEADER.size)
    if block[:4] != MAGIC:
        raise ElfError("is not an ELF file")
    if block[4:6] != b"\x02\x01":
        raise ElfError("is not a 64-bit little-endian ELF file")
    return _HEADER.unpack(block)


def _read_table(
    file: BinaryIO, offset: int, count: int, entry: struct.Struct
) -> list[tuple[int, ...]]:
    return list(entry.iter_unpack(_read_at(file, offset, count * entry.size)))


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    block = file.read(size)
    if len(block) < size:
        raise ElfError(f"is cut short: {size} bytes are missing at {offset}")
    return block


def _read_text(file: BinaryIO, offset: int) -> str:
    def pieces() -> Iterator[bytes]:
        file.seek(offset)
        while block := file.read(256):
            yield block
            if b"\0" in block:
                return

    return b"".join(pieces()).split(b"\0", 1)[0].decode("utf-8", "replace")


def _offset_of(address: int, segments: list[tuple[int, ...]]) -> int:
    for kind, _, offset, virtual, _, size, _, _ in segments:
        if kind == _PT_LOAD and virtual <= address < virtual + size:
            return offset + address - virtual
    raise ElfError(f"has no segment with its table of names at {address:#x}")
