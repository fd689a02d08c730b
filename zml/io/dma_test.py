import logging
import mmap
import threading

import numpy as np
import pytest

from zml.errors import CancelledError
from zml.io.dma import Block, DmaAllocator
from zml.pjrt import cpu
from zml.pjrt.executable import Error
from zml.vfs.base import Cancellation


class _Client:
    """Records what is pinned; from the call number `fails` on, pinning fails."""

    def __init__(self, fails: int = 100, unpin_fails: bool = False) -> None:
        self.calls, self.fails, self.unpin_fails = 0, fails, unpin_fails
        self.pinned: dict[int, int] = {}

    def pin(self, address: int, size: int) -> bool:
        assert address % mmap.PAGESIZE == 0 and size % mmap.PAGESIZE == 0
        self.calls += 1
        if self.calls >= self.fails:
            raise Error("RESOURCE_EXHAUSTED: cuMemHostRegister failed\nwhere it happened")
        assert address not in self.pinned
        self.pinned[address] = size
        return True

    def unpin(self, address: int) -> None:
        del self.pinned[address]
        if self.unpin_fails:
            raise Error("INTERNAL: not so")


def _take(pool: DmaAllocator, count: int) -> list[Block]:
    return [pool.take() for _ in range(count)]


def test_blocks_are_pinned_once_and_used_again() -> None:
    client = _Client()
    with DmaAllocator(client, 5000, 2) as pool:
        found = [pool.pinned]
        assert pool.block_bytes == 8192
        for _ in range(3):
            with pool.take() as one, pool.take() as two:
                assert {one.address, two.address} == client.pinned.keys()
                assert set(client.pinned.values()) == {8192}
                assert len(one.memory) == 8192 and not one.memory.readonly
                assert np.frombuffer(one.memory, np.uint8).ctypes.data == one.address
                assert one.pinned and pool.try_take() is None
                found.append(pool.pinned)
        assert client.calls == 2 and found == [False, True, True, True]
    assert not client.pinned


def test_once_pinning_fails_the_rest_is_plain_memory(caplog: pytest.LogCaptureFixture) -> None:
    client = _Client(fails=3)
    with caplog.at_level(logging.WARNING, "zml"), DmaAllocator(client, 4096, 5) as pool:
        blocks = _take(pool, 5)
        assert [block.pinned for block in blocks] == [True, True, False, False, False]
        assert client.calls == 3 and len(client.pinned) == 2
        assert pool.pinned is False
        assert all(block.address % mmap.PAGESIZE == 0 for block in blocks)
    assert not client.pinned
    (record,) = (r for r in caplog.records if r.name == "zml.io")
    assert "not pinned" in record.getMessage() and "cuMemHostRegister failed" in record.getMessage()
    assert "where it happened" not in record.getMessage()


@pytest.mark.parametrize("unpin_fails", [False, True])
def test_close_unpins_all_after_errors_too(unpin_fails: bool) -> None:
    client = _Client(unpin_fails=unpin_fails)
    with pytest.raises(KeyError, match="reading"), DmaAllocator(client, 4096, 3) as pool:
        first, _, third = _take(pool, 3)
        first.release()
        raise KeyError("reading failed")
    assert not client.pinned and not third.pinned
    third.release()
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.take()


def test_the_cpu_has_no_pinning_but_aligned_memory() -> None:
    with DmaAllocator(cpu.open_client(1), 1 << 16, 2) as pool, pool.take() as block:
        assert not block.pinned and not pool.pinned
        assert block.address % mmap.PAGESIZE == 0


def test_who_waits_gets_what_is_released() -> None:
    with DmaAllocator(_Client(), 4096, 1) as pool:
        block, got = pool.take(), list[Block]()
        thread = threading.Thread(target=lambda: got.append(pool.take()))
        thread.start()
        block.release()
        thread.join(10)
        assert got == [block]
        block.release()
        with pytest.raises(ValueError, match="released before"):
            block.release()


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_waiting_ends(how: str) -> None:
    cancellation, raised = Cancellation(), list[BaseException]()
    pool = DmaAllocator(_Client(), 4096, 1)
    pool.take()

    def wait() -> None:
        try:
            pool.take(cancellation)
        except (CancelledError, ValueError) as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    cancellation.cancel() if how == "cancel" else pool.close()
    thread.join(10)
    assert [type(error) for error in raised] == [CancelledError if how == "cancel" else ValueError]
    pool.close()


def test_many_threads_never_share_a_block() -> None:
    with DmaAllocator(_Client(), 4096, 3) as pool:
        failures = []

        def use(number: int) -> None:
            for _ in range(200):
                with pool.take() as block:
                    block.memory[0] = number
                    if block.memory[0] != number:
                        failures.append(number)

        threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


@pytest.mark.parametrize(("size", "blocks"), [(0, 1), (1, 0)])
def test_a_pool_of_nothing_is_refused(size: int, blocks: int) -> None:
    with pytest.raises(ValueError, match="expected one at least of each"):
        DmaAllocator(_Client(), size, blocks)
