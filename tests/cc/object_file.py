"""What a shared library says about itself: enough ELF and Mach-O to check what a toolchain made.

Sources: the System V ABI (gabi), the LSB for symbol versions, Apple's <mach-o/loader.h>.
64-bit, little endian.
"""

import dataclasses
import re
import struct
from collections.abc import Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class ObjectFile:
    """A shared library: `versions` are the symbol versions it needs, as (library, version)."""

    format: str
    machine: str
    needed: tuple[str, ...]
    versions: frozenset[tuple[str, str]] = frozenset()
    minimum_os: tuple[int, ...] = ()
    signed: bool = False

    def glibc(self) -> tuple[int, ...]:
        """The newest glibc version that a symbol asks for."""
        found = [re.fullmatch(r"GLIBC_([\d.]+)", version) for _, version in self.versions]
        return max((tuple(map(int, m[1].split("."))) for m in found if m), default=())


def read(path: Path) -> ObjectFile:
    """Reads a shared library; ValueError names what was found instead of one."""
    data = path.read_bytes()
    if data[:6] == b"\x7fELF\x02\x01":
        return _read_elf(path, data)
    if data[:4] == b"\xcf\xfa\xed\xfe":
        return _read_macho(path, data)
    raise ValueError(f"{path}: expected 64-bit ELF or Mach-O, found {data[:6].hex(' ')}")


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_VERNEED, _DT_VERNEEDNUM = 1, 5, 0x6FFFFFFE, 0x6FFFFFFF


def _read_elf(path: Path, data: bytes) -> ObjectFile:
    kind, machine = struct.unpack_from("<HH", data, 16)
    if kind != 3:
        raise ValueError(f"{path}: expected a shared object (ELF type 3), found type {kind}")
    (headers,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, headers + i * size) for i in range(count)]

    def file_offset(address: int) -> int:
        """Where the byte lies that is loaded at `address`."""
        for kind, _, offset, start, _, length in segments:
            if kind == _PT_LOAD and start <= address < start + length:
                return int(offset + address - start)
        raise ValueError(f"{path}: no segment holds address {address:#x}")

    [(offset, length)] = [(s[2], s[5]) for s in segments if s[0] == _PT_DYNAMIC]
    dynamic = list(struct.iter_unpack("<QQ", data[offset : offset + length]))
    values = dict(dynamic)
    strings = file_offset(values[_DT_STRTAB])
    versions: frozenset[tuple[str, str]] = frozenset()
    if _DT_VERNEED in values:
        first = file_offset(values[_DT_VERNEED])
        versions = frozenset(_needed_versions(data, first, values[_DT_VERNEEDNUM], strings))
    return ObjectFile(
        format="ELF",
        machine=_ELF_MACHINES.get(machine, str(machine)),
        needed=tuple(_string(data, strings + v) for tag, v in dynamic if tag == _DT_NEEDED),
        versions=versions,
    )


def _needed_versions(
    data: bytes, entry: int, count: int, strings: int
) -> Iterator[tuple[str, str]]:
    """The entries of an ELF version-needs section, the first of which lies at `entry`."""
    for _ in range(count):
        _, versions, library, first, following = struct.unpack_from("<HHIII", data, entry)
        version = entry + first
        for _ in range(versions):
            _, _, _, name, after = struct.unpack_from("<IHHII", data, version)
            yield _string(data, strings + library), _string(data, strings + name)
            version += after
        entry += following


_MACHO_MACHINES = {0x01000007: "x86_64", 0x0100000C: "aarch64"}
_LC_LOAD_DYLIB, _LC_CODE_SIGNATURE, _LC_BUILD_VERSION = 0xC, 0x1D, 0x32


def _read_macho(path: Path, data: bytes) -> ObjectFile:
    _, machine, _, kind, count, _, _, _ = struct.unpack_from("<8I", data)
    if kind != 6:
        raise ValueError(f"{path}: expected a shared library (Mach-O type 6), found type {kind}")
    commands: list[tuple[int, bytes]] = []
    offset = 32
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, offset)
        commands.append((command, data[offset : offset + size]))
        offset += size
    loads = [body for command, body in commands if command == _LC_LOAD_DYLIB]
    [build] = [body for command, body in commands if command == _LC_BUILD_VERSION]
    (minimum,) = struct.unpack_from("<I", build, 12)
    return ObjectFile(
        format="Mach-O",
        machine=_MACHO_MACHINES.get(machine, hex(machine)),
        needed=tuple(_string(body, struct.unpack_from("<I", body, 8)[0]) for body in loads),
        minimum_os=(minimum >> 16, minimum >> 8 & 0xFF),
        signed=any(command == _LC_CODE_SIGNATURE for command, _ in commands),
    )
