import ctypes
import mmap

import numpy as np
import pytest

from zml.io import numa
from zml.io.memory import Layout


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0\n", (0,)), ("0-3\n", (0, 1, 2, 3)), ("0-1,8,10-11", (0, 1, 8, 10, 11))],
)
def test_lists_of_the_kernel(text: str, expected: tuple[int, ...]) -> None:
    assert numa.parse(text) == expected


def test_memory_that_is_spread_is_memory() -> None:
    """Over one node, or where the system refuses: it works as before."""
    memory = mmap.mmap(-1, 1 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    numa.spread(address, (1 << 20) - 5, numa.nodes())
    memory[:] = b"x" * (1 << 20)
    assert memory[-3:] == b"xxx"


def test_what_cannot_be_is_refused() -> None:
    memory = mmap.mmap(-1, 1 << 16)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert not numa.spread(address, 1 << 16, ())
    assert not numa.spread(address, 1 << 16, (5000,))
    assert not numa.spread(address + 1, 1 << 16, (0,))


def test_slabs_are_spread_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, tuple[int, ...]]] = []
    monkeypatch.setattr(numa, "nodes", lambda: (0, 1))
    monkeypatch.setattr(numa, "spread", lambda *given: asked.append(given))
    layout = Layout[str]()
    layout.reserve("a", 3 << 20, 0)
    ((slab, _),) = layout.allocate().values()
    assert asked == [(slab.ctypes.data, slab.size, (0, 1))]
    asked.clear()
    monkeypatch.setattr(numa, "nodes", lambda: (0,))
    layout.allocate()
    assert not asked and slab.dtype == np.uint8
