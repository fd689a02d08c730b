"""How many requests of one host go on at a time: fewer once it is overloaded, slowly more again (AIMD)."""

from __future__ import annotations

import math
import threading
import time
from collections import deque

from zml.vfs.base import Cancellation
from zml.vfs.patience import TryAgainError

_FIRST = 32
_MOST = 64


class Gate:
    """Lets so many in at a time: half once the host says that it is too busy, one more for each round without."""

    def __init__(self, streams: int | None = None) -> None:
        """`streams`: the most; None: what suits most hosts."""
        self._most = streams or _MOST
        self._limit = float(streams or _FIRST)
        self._inside = 0
        self._queue: deque[object] = deque()
        self._halved = 0.0
        self._opens = 0.0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many are let in by now."""
        return int(self._limit)

    @property
    def inside(self) -> int:
        """How many are in."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many wait to be let in."""
        return len(self._queue)

    def enter(self, cancellation: Cancellation, longest: float = math.inf) -> float:
        """Waits to be let in; when that was, for `busy`. Raises CancelledError.

        Behind other requests it waits as long as they take; but raises TryAgainError if nobody is let in for more than
        `longest` seconds.
        """
        with self._changed:
            # Who waits already comes first.
            if not self._queue and self._is_open(time.monotonic()):
                cancellation.check()
                self._inside += 1
                return time.monotonic()
        with cancellation.interrupting(self._wake), self._changed:
            ticket = object()
            self._queue.append(ticket)
            try:
                while not self._is_open(now := time.monotonic()) or self._queue[0] is not ticket:
                    cancellation.check()
                    pause = self._opens - now
                    if pause > longest:
                        raise TryAgainError("the server said that it is asked too often", pause)
                    self._changed.wait(pause if pause > 0 else None)
                cancellation.check()
                self._inside += 1
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
            return now

    def leave(self) -> None:
        """Makes room for another."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def well(self) -> None:
        """A request was served."""
        with self._changed:
            # Only a limit that was reached says that more would go.
            if self._inside >= int(self._limit):
                self._limit = min(self._most, self._limit + 1 / self._limit)

    def busy(self, since: float, pause: float = 0.0) -> None:
        """The host refused a request that was let in at `since`. For `pause` seconds nobody is let in.

        The requests that were under way together count once.
        """
        with self._changed:
            if since >= self._halved:
                self._limit = max(1.0, self._limit / 2)
                self._halved = time.monotonic()
            self._opens = max(self._opens, time.monotonic() + pause)
            if pause:
                # Each of those who wait is to see whether that is too long for it.
                self._changed.notify_all()

    def _is_open(self, now: float) -> bool:
        return self._inside < int(self._limit) and now >= self._opens

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
