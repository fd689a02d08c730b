"""The steps of an answer after its first token: how they are put on the device, and how their tokens come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zml.buffer import Buffer, Slice
from zml.compile import Runner
from zml.kernels.cpu.emit import Stream

AHEAD = 32
"""Steps that a loop on the device is given at a time. More cost nothing: who wants no more ends it with its step."""


class Decoding:
    """The state that goes round from step to step. `cache` is always the one to go on with."""

    def __init__(
        self, runner: Runner, put: Callable[[Any], Any], parameters: Any, prefilled: tuple[Any, ...]
    ) -> None:
        """`prefilled`: what prefill gave: token, position, counts, cache."""
        self.token: Buffer
        self.token, self._position, self._counts, self.cache = prefilled
        self._runner = runner
        self._put = put
        self._parameters = parameters

    def values(self, steps: int) -> Iterator[int]:
        """The token of prefill, then those of so many steps; each is on its way before the token before it is read."""
        one = self._put(Slice(np.int32(1)))
        for left in range(steps, -1, -1):
            token = self.token
            if left:
                self._run(one)
            yield int(token.item())

    def close(self) -> None:
        """No more values are wanted."""

    def _run(self, *scalars: Buffer) -> None:
        self.token, self._position, self._counts, self.cache = self._runner(
            self.cache, self.token, self._position, *scalars, self._parameters, self._counts
        )


class Looped(Decoding):
    """The same by a program that loops itself: see zml.llm.programs.decode."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stream = Stream()

    def values(self, steps: int) -> Iterator[int]:
        """The token of prefill, then those of so many steps, as the program sends them."""
        socket = self._put(Slice(np.int32(self._stream.socket)))
        given, first = 0, self.token
        for read in range(steps + 1):
            # The next loop is there before the last one ends, and at most two of them are left over in the end.
            if given < steps and given - read < AHEAD:
                count = min(AHEAD, steps - given)
                self._run(self._put(Slice(np.int32(count))), socket)
                given += count
            yield self._stream.read(self._check) if read else int(first.item())

    def close(self) -> None:
        """Ends the program with the step that it is in, and waits: the socket is its own until then."""
        self._stream.stop()
        try:
            self.token.wait()
        finally:
            self._stream.close()

    def _check(self) -> None:
        if self.token.is_ready:
            # Raises what ended it.
            self.token.wait()
            raise RuntimeError("the program ended and sent fewer tokens than it was asked for")
