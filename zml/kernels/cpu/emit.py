"""Values that reach the host while the program that makes them goes on: see zml/kernels/cpu/native/emit_ffi.cc."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

import jax
import numpy as np

_VALUE = struct.Struct("=i")
# Linux takes some 800 bytes for a value.
_BUFFER = 128 << 10


def emit(stream: jax.Array, value: jax.Array) -> jax.Array:
    """Sends an i32 into a Stream, whose `socket` is `stream` (i32). False where it was closed: nobody wants more.

    The result must be used, or the call is dropped: to XLA it is a value and no effect, for which calls of the program
    would wait.
    """
    native = jax.ffi.ffi_call("zml_cpu_emit", jax.ShapeDtypeStruct((), np.bool))
    return native(stream, value)


class Stream:
    """The host's end: values in the order in which they were sent. Some hundred find room before one is read."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._received = b""

    @property
    def socket(self) -> int:
        """What the program is given."""
        return self._there.fileno()

    def read(self, check: Callable[[], None], seconds: float = 1.0) -> int:
        """The next value. `check` is called every so many seconds, to raise what ended the program."""
        self._here.settimeout(seconds)
        failure: Exception | None = None
        while len(self._received) < _VALUE.size:
            try:
                self._received += self._here.recv(4096)
            except TimeoutError:
                if failure is not None:
                    raise failure from None
                try:
                    check()
                except Exception as error:
                    # It may have ended well, with a value that came meanwhile: one look more.
                    failure = error
                    self._here.settimeout(0.001)
        value: int = _VALUE.unpack_from(self._received)[0]
        self._received = self._received[_VALUE.size :]
        return value

    def stop(self) -> None:
        """Lets the program know that nobody wants more."""
        with contextlib.suppress(OSError):
            # A process that was forked may have a copy, which keeps it open.
            self._here.shutdown(socket.SHUT_RDWR)
        self._here.close()

    def close(self) -> None:
        """Gives both ends back. The program must have ended: the socket's number may be another file's then."""
        self._here.close()
        self._there.close()
