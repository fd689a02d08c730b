"""Readers: threads that work off a list of reads, as many of them as the medium is fastest with."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from zml.errors import CancelledError
from zml.vfs.base import Cancellation

type Work = Callable[[Cancellation], None]
"""A read, which is to look at the cancellation and to end soon after."""

_TICK = 0.05
_SAMPLE = 0.25
# How long an interrupted load waits for its readers: those that a kernel holds are left behind.
_PATIENCE = 0.8


class Climb:
    """How many readers: more while that is faster, else what was best; asked again from time to time."""

    def __init__(self, start: int, most: int) -> None:
        self.count = min(start, most)
        self._most = most
        self._best = 0.0
        self._before = self.count
        self._hold = 1  # the first sample has the start in it

    def observe(self, rate: float) -> int:
        """Takes the bytes per second that the present count gave. Returns the next one."""
        if self._hold:
            self._hold -= 1
            self._best = rate if not self._hold else self._best
            if not self._hold:
                self._try()
        elif rate > 1.05 * self._best:
            self._best = rate
            self._try()
        else:
            self.count, self._hold = self._before, 12
        return self.count

    def _try(self) -> None:
        self._before = self.count
        self.count = min(self._most, self.count + max(1, self.count // 2))


class Readers:
    """Threads that take works from one queue, in its order; they go from there."""

    def __init__(
        self,
        works: deque[Work],
        start: int,
        most: int,
        *,
        done: Callable[[], int],
        tick: Callable[[], None],
    ) -> None:
        """`done` gives the bytes read so far; `tick` is called by the waiting thread now and then."""
        self._works = works
        self._climb = Climb(start, min(most, len(works)))
        self._done = done
        self._tick = tick
        self._cancellation = Cancellation()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._empty = not works
        self.most = 0

    def run(self, cancellation: Cancellation | None = None) -> None:
        """Returns when all works are done. The first that fails ends the others, and its error is raised.

        An exception in the waiting thread, as of Ctrl-C, ends them too. Raises CancelledError.
        """
        with (cancellation or Cancellation()).interrupting(self._cancellation.cancel):
            try:
                self._wait()
            except BaseException:
                self._cancellation.cancel()
                self._join()
                raise
            finally:
                self._works.clear()
        if self._error is not None:
            # What the reader's frames hold is not to live as long as the error.
            traceback.clear_frames(self._error.__traceback__)
            raise self._error
        self._cancellation.check()

    def _wait(self) -> None:
        began, before = time.perf_counter(), 0
        while True:
            with self._changed:
                while not self._empty and self._running < self._climb.count:
                    self._start()
                if self._empty and not self._running:
                    return
                self._changed.wait(_TICK)
            self._tick()
            now = time.perf_counter()
            if now - began >= _SAMPLE:
                count = self._done()
                self._climb.observe((count - before) / (now - began))
                began, before = now, count

    def _start(self) -> None:
        thread = threading.Thread(target=self._read, name="zml-load", daemon=True)
        self._running += 1
        try:
            thread.start()
        except BaseException:  # the system gives no more of them
            self._running -= 1
            raise
        self._threads.append(thread)
        self.most = max(self.most, self._running)

    def _read(self) -> None:
        try:
            while (work := self._next()) is not None:
                work(self._cancellation)
                del work
        except BaseException as error:
            with self._changed:
                # What others say after that is a consequence of the first one's error.
                if self._error is None and not (
                    self._cancellation.cancelled and isinstance(error, CancelledError)
                ):
                    self._error = error
            self._cancellation.cancel()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _next(self) -> Work | None:
        """None: this reader is to end."""
        with self._changed:
            if self._cancellation.cancelled:
                self._empty = True
            if self._empty or self._running > self._climb.count:
                return None
            self._empty = not self._works
            return self._works.popleft() if self._works else None

    def _join(self) -> None:
        end = time.perf_counter() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, end - time.perf_counter()))
