"""Blocks of host memory that transfers to devices start from: pinned where the platform can, and used again."""

import contextlib
import mmap
import threading
from types import TracebackType
from typing import Protocol, Self

from zml import log
from zml.pjrt.executable import Error
from zml.vfs import direct
from zml.vfs.base import Cancellation

_LOG = log.get("io")


class Pins(Protocol):
    """What lets devices read host memory where it lies: zml.pjrt.client.Client."""

    def pin(self, address: int, size: int) -> bool:
        """Pins whole pages; False where there is no such thing."""

    def unpin(self, address: int) -> None:
        """Takes it back."""


class Block:
    """Memory that is page-aligned, and this owner's until it is released. As a context it releases itself."""

    def __init__(self, pool: "DmaAllocator", size: int) -> None:
        self._pool = pool
        self.memory = direct.huge_pages(size)
        """All of it, writable. It stays valid after the release, but is others' then."""
        self.address: int = direct.address(self.memory)
        self.pinned = False
        """Whether devices read it where it lies."""

    def release(self) -> None:
        """Gives it back to the pool; no transfer from it may be under way."""
        self._pool.give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class DmaAllocator:
    """A pool of at most `blocks` blocks of `block_bytes`, made when they are needed. Any thread may ask.

    They are pinned through the platform's client where it can. Once pinning fails (the system limits what may be
    locked), no other block is tried, and what was pinned stays so.
    """

    def __init__(self, client: Pins, block_bytes: int, blocks: int) -> None:
        if block_bytes < 1 or blocks < 1:
            raise ValueError(
                f"DmaAllocator: {blocks} blocks of {block_bytes} bytes; expected one at least of each"
            )
        self.block_bytes = -(-block_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.blocks = blocks
        self._client = client
        self._pinnable = True
        self._changed = threading.Condition()
        self._free: list[Block] = []
        self._taken: set[Block] = set()
        self._making = 0
        self._closed = False

    @property
    def pinned(self) -> bool:
        """Whether there are blocks, and all are pinned."""
        with self._changed:
            blocks = [*self._free, *self._taken]
            return bool(blocks) and all(block.pinned for block in blocks)

    def take(self, cancellation: Cancellation | None = None) -> Block:
        """A block; waits until one is free. Raises CancelledError if cancelled meanwhile."""
        with (cancellation or Cancellation()).interrupting(self._wake):
            while True:
                if (block := self.try_take()) is not None:
                    return block
                with self._changed:
                    self._changed.wait_for(
                        lambda: (
                            self._available()
                            or (cancellation is not None and cancellation.cancelled)
                        )
                    )
                if cancellation is not None:
                    cancellation.check()

    def try_take(self) -> Block | None:
        """A block if one is free."""
        with self._changed:
            if self._closed:
                raise ValueError("DmaAllocator: it is closed")
            if self._free:
                block = self._free.pop()
                self._taken.add(block)
                return block
            if not self._available():
                return None
            self._making += 1
        # Outside the lock: pinning touches every page.
        try:
            block = Block(self, self.block_bytes)
            self._pin(block)
        except BaseException:
            with self._changed:
                self._making -= 1
                self._changed.notify_all()
            raise
        with self._changed:
            self._making -= 1
            if kept := not self._is_closed():
                self._taken.add(block)
        if not kept:
            self._unpin(block)
            raise ValueError("DmaAllocator: it was closed meanwhile")
        return block

    def give_back(self, block: Block) -> None:
        """What Block.release calls."""
        with self._changed:
            if block not in self._taken:
                if self._closed:
                    return
                raise ValueError("Block.release: it was released before")
            self._taken.remove(block)
            self._free.append(block)
            self._changed.notify()

    def close(self) -> None:
        """Unpins every block, those too that were not released: no transfer may be under way. Wakes who waits."""
        with self._changed:
            self._closed = True
            blocks = [*self._free, *self._taken]
            self._free, self._taken = [], set()
            self._changed.notify_all()
        for block in blocks:
            self._unpin(block)

    def _is_closed(self) -> bool:
        return self._closed

    def _available(self) -> bool:
        made = len(self._free) + len(self._taken) + self._making
        return self._closed or bool(self._free) or made < self.blocks

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _pin(self, block: Block) -> None:
        if not self._pinnable:
            return
        try:
            block.pinned = self._client.pin(block.address, self.block_bytes)
        except Error as error:
            _LOG.warning(
                "Memory for transfers is not pinned, which makes them slower: %s (is `ulimit -l` too low?)",
                str(error).split("\n", 1)[0],
            )
        if not block.pinned:
            self._pinnable = False

    def _unpin(self, block: Block) -> None:
        if block.pinned:
            block.pinned = False
            # The others are still to be unpinned; and there is nothing that could be done about this one.
            with contextlib.suppress(Error):
                self._client.unpin(block.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
