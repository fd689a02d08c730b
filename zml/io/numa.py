"""Machines whose memory is in several nodes: weights are spread over all of them, so that all of them are read at once.

Every processor reads every weight, and a CPU platform has one pool of threads over all nodes: no node is the right one
for a slab. Where there is one node nothing is done. (Tried on machines with one node only.)
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

_NODES = Path("/sys/devices/system/node/has_memory")
_MBIND = {"x86_64": 237, "aarch64": 235}
_INTERLEAVE = 3
_MOST = 1024
"""Nodes that a mask has bits for."""


@cache
def nodes() -> tuple[int, ...]:
    """The numbers of the nodes that have memory; none where the system does not say."""
    try:
        return parse(_NODES.read_text("ascii"))
    except (OSError, ValueError):
        return ()


def parse(ranges: str) -> tuple[int, ...]:
    """What the kernel calls a list: `0-3,8` is 0, 1, 2, 3, 8."""
    found: list[int] = []
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def spread(address: int, size: int, among: tuple[int, ...]) -> bool:
    """Lets pages of memory that nobody has touched come from the nodes in turn. Whether the system does.

    `address` is a page's. Memory stays usable, from the node of who touches it, where it does not.
    """
    number = _MBIND.get(platform.machine())
    if not sys.platform.startswith("linux") or number is None or not among or max(among) >= _MOST:
        return False
    word = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (_MOST // word))()
    for node in among:
        mask[node // word] |= 1 << node % word
    page = os.sysconf("SC_PAGE_SIZE")
    whole = ctypes.c_ulong(-(-size // page) * page)
    call = ctypes.CDLL(None, use_errno=True).syscall
    where, most = ctypes.c_void_p(address), ctypes.c_ulong(_MOST)
    return bool(call(number, where, whole, _INTERLEAVE, mask, most, 0) == 0)
