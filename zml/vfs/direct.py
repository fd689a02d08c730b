"""What the operating system offers to read a file past its cache, or to know what is in it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
import sys
import threading
from functools import cache
from typing import NamedTuple

PAGE = 4096
"""Fits every medium: what the system asks of direct reads is a divisor of it, or is not served."""

HUGE_PAGE = 2 << 20
"""Of x86-64, and of aarch64 with small pages of 4 KiB."""

_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_SYS_CACHESTAT = 451  # the same number on every architecture
_F_NOCACHE = 48  # of macOS


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("size", ctypes.c_uint64))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Alignment(NamedTuple):
    """What direct reads of a file ask for, in bytes."""

    memory: int
    """Of addresses: 4 of an NVMe disk, 512 of many others."""
    offset: int
    """Of offsets and sizes. Never less than that of memory."""


def open_direct(fd: int, path: os.PathLike[str] | str) -> tuple[int, Alignment] | None:
    """A second descriptor of an opened file, which goes past the page cache, and the alignment that it asks for.

    None where the filesystem has no such reads, or another file is at the path by now.
    """
    flag = getattr(os, "O_DIRECT", 0)
    align = alignment(fd) if flag else Alignment(1, 1)
    if align is None or not (flag or sys.platform == "darwin"):
        return None
    try:
        direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flag)
    except OSError:  # EINVAL: the filesystem refuses
        return None
    if not os.path.samestat(os.fstat(direct), os.fstat(fd)):
        os.close(direct)
        return None
    if not flag:
        import fcntl

        fcntl.fcntl(direct, _F_NOCACHE, 1)
    return direct, align


def alignment(fd: int) -> Alignment | None:
    """What direct reads of a file ask for; None where there are none."""
    found = (ctypes.c_char * 256)()
    try:
        failed = _libc().statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, found)
    except AttributeError:  # a C library without it
        return Alignment(PAGE, PAGE)
    (mask,) = struct.unpack_from("=I", found.raw, 0)
    if failed or not mask & _STATX_DIOALIGN:
        return Alignment(PAGE, PAGE)
    memory, offset = struct.unpack_from("=II", found.raw, 152)
    # No direct reads of this file, or such as are not worth the trouble.
    if not 0 < memory <= PAGE or not 0 < offset <= PAGE:
        return None
    return Alignment(memory, max(memory, offset))


def cached(fd: int, offset: int, size: int) -> int | None:
    """Bytes of a range whose pages are in the page cache; None where the system does not say.

    It starts no readahead. (A read with RWF_NOWAIT does, of all that it asks for: what is then read directly would be
    read twice.)
    """
    if not sys.platform.startswith("linux"):
        return None
    asked, counts = _Range(offset, size), (ctypes.c_uint64 * 5)()
    # Fails before Linux 6.5, and for files that are neither ours nor writable.
    if _libc().syscall(_SYS_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(counts), 0):
        return None
    first, end = offset // PAGE * PAGE, -(-(offset + size) // PAGE) * PAGE
    return size if counts[0] * PAGE >= end - first else min(counts[0] * PAGE, size - 1)


def address(buffer: memoryview) -> int:
    """Where writable memory is."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def copy(target: int, source: int, size: int) -> None:
    """Copies memory by address; other threads go on meanwhile."""
    ctypes.memmove(target, source, size)


def huge_pages(size: int) -> memoryview:
    """Memory that begins with a huge page, and goes on so where the system has them; given back with the last view.

    A disk fills it twice as fast: a request names each page apart, and ends where a controller takes no more names. The
    last part of a huge page's size or less is in small pages.
    """
    mapped = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = -address(memoryview(mapped)) % HUGE_PAGE
    whole = size // HUGE_PAGE * HUGE_PAGE
    if hasattr(mmap, "MADV_HUGEPAGE") and whole:
        with contextlib.suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE, begin, whole)
    return memoryview(mapped)[begin : begin + size]


class Blocks(threading.local):
    """A block of memory for each thread, aligned to a page, huge if it is large enough."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = huge_pages(size)
        self.address = address(self.view)
