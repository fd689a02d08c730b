"""Values arrive one by one while the program runs, and it ends when nobody takes them."""

import socket
import time
from typing import Any

import jax
import numpy as np
import pytest

from zml.kernels.cpu import library
from zml.kernels.cpu.emit import Stream, emit

pytestmark = pytest.mark.skipif(not library.available(), reason="no native library in this build")


@jax.jit
def _count(stream: Any, start: Any, end: Any) -> Any:
    """Sends start, start + 1, ... below end; gives the first number that was not taken."""

    def body(carry: Any) -> Any:
        number, _ = carry
        return number + 1, emit(stream, number)

    return jax.lax.while_loop(
        lambda carry: (carry[0] < end) & carry[1], body, (start, np.bool(True))
    )[0]


def _never() -> None:
    raise AssertionError("a value was late")


def test_values_arrive_in_order() -> None:
    stream = Stream()
    last = _count(np.int32(stream.socket), np.int32(-3), np.int32(97))
    assert [stream.read(_never, 30) for _ in range(100)] == list(range(-3, 97))
    assert int(last) == 97
    stream.close()


def test_a_program_that_nobody_listens_to_ends() -> None:
    stream = Stream()
    result = _count(np.int32(stream.socket), np.int32(0), np.int32(2**31 - 1))
    assert [stream.read(_never, 30) for _ in range(3)] == [0, 1, 2]
    stream.stop()
    assert 2 < int(result) < 2**31 - 1
    stream.close()


def test_a_stream_that_is_full_ends_it_too() -> None:
    stream = Stream()
    assert 100 < int(_count(np.int32(stream.socket), np.int32(0), np.int32(2**31 - 1))) < 2**31 - 1
    stream.close()


def test_a_number_that_is_no_socket_ends_it() -> None:
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    assert int(_count(np.int32(number), np.int32(0), np.int32(9))) == 1


def test_waiting_is_interrupted_by_what_ended_the_program() -> None:
    stream = Stream()

    def check() -> None:
        raise RuntimeError("it failed")

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="it failed"):
        stream.read(check, 0.05)
    assert time.monotonic() - began < 20
    stream.close()
