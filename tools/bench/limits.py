"""What this machine can do at most: read bandwidth and floating-point peak, measured beside what is held against them.

The probes are C++ in native/probe.cc, found in the runfiles or where ZML_PROBE_LIBRARY says. Without them numpy stands
in, and the result says so: it then gives a lower bound.
"""

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

LIBRARY_VARIABLE = "ZML_PROBE_LIBRARY"
"""Environment variable with the path of the probes' shared library."""
_NAME_SIZE = 64


@dataclass(frozen=True)
class Limit:
    """A limit as several passes saw it, in GB/s or GFLOP/s, and how it was measured."""

    median: float
    max: float
    how: str

    def json(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """A machine's limits with so many threads. `bf16` is f32's where no instruction multiplies bfloat16."""

    threads: int
    read: Limit
    """Reading memory, GB/s."""
    f32: Limit
    """Multiplications and additions of float32, GFLOP/s."""
    bf16: Limit
    """The same of bfloat16 onto float32 sums. AMX and SME units are not counted."""

    def json(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def library() -> ctypes.CDLL | None:
    """The probes, or None where they were not built."""
    given = os.environ.get(LIBRARY_VARIABLE)
    built = Path(__file__).parent / "native" / "libprobe.so"
    path = Path(given) if given else built
    return ctypes.CDLL(str(path)) if given or path.is_file() else None


def measure(threads: int, megabytes: int = 1024, passes: int = 9) -> Limits:
    """Measures with so many threads; takes about 3 seconds with the default gigabyte."""
    probe = library()
    read = read_limit(threads, megabytes, passes)
    f32 = _peak(probe, "f32", threads, passes)
    bf16 = _peak(probe, "bf16", threads, passes) if probe else None
    assert f32 is not None
    if bf16 is None:
        bf16 = Limit(f32.median, f32.max, f"as f32: {f32.how}")
    return Limits(threads, read, f32, bf16)


def beside_reading(
    run: Callable[[], float], times: int, threads: int, megabytes: int
) -> list[tuple[float, float]]:
    """The seconds that `run` gives so many times, each with the read bandwidth in GB/s of just before and after it.

    Other guests of a shared machine can halve its bandwidth within minutes: a share is taken of the same moments.
    """
    found, before = [], read_limit(threads, megabytes, passes=5).median
    for _ in range(times):
        result = run()
        after = read_limit(threads, megabytes, passes=5).median
        found.append((result, (before + after) / 2))
        before = after
    return found


def combined(found: list[Limits]) -> Limits:
    """The limits over several rounds: medians of medians, greatest of all."""

    def over(limits: list[Limit]) -> Limit:
        median = statistics.median(x.median for x in limits)
        return Limit(median, max(x.max for x in limits), limits[0].how)

    return Limits(
        found[0].threads,
        over([x.read for x in found]),
        over([x.f32 for x in found]),
        over([x.bf16 for x in found]),
    )


def read_limit(threads: int, megabytes: int, passes: int) -> Limit:
    """Reading memory, in GB/s, with so many threads."""
    probe, size = library(), megabytes << 20
    if probe is None:
        return _numpy_read(threads, size, passes)
    seconds, name = (ctypes.c_double * passes)(), ctypes.create_string_buffer(_NAME_SIZE)
    done = ctypes.c_size_t()
    code = probe.zml_probe_read(
        ctypes.c_size_t(size), threads, passes, seconds, ctypes.byref(done), name, ctypes.c_size_t(_NAME_SIZE)
    )  # fmt: skip
    if code:
        raise MemoryError(f"no {size} bytes to read from")
    return _limit([done.value / each / 1e9 for each in seconds], name.value.decode())


def _peak(probe: ctypes.CDLL | None, dtype: str, threads: int, passes: int) -> Limit | None:
    if probe is None:
        return _numpy_peak(passes)
    gflops, name = (ctypes.c_double * passes)(), ctypes.create_string_buffer(_NAME_SIZE)
    code = probe.zml_probe_peak(
        dtype.encode(), threads, passes, ctypes.c_double(0.05), gflops, name, ctypes.c_size_t(_NAME_SIZE)
    )  # fmt: skip
    return None if code else _limit(list(gflops), name.value.decode())


def _limit(values: list[float], how: str) -> Limit:
    return Limit(statistics.median(values), max(values), how)


def _numpy_read(threads: int, size: int, passes: int) -> Limit:
    # A dot product of a piece with itself reads it once, in BLAS's own vector loop.
    pieces = [np.ones(size // threads // 4, np.float32) for _ in range(threads)]
    step = 1 << 20

    def read(piece: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        for start in range(0, len(piece), step):
            np.dot(piece[start : start + step], piece[start : start + step])

    with ThreadPoolExecutor(threads) as pool:
        times = [_seconds(lambda: list(pool.map(read, pieces))) for _ in range(passes + 1)][1:]
    total = sum(piece.nbytes for piece in pieces)
    return _limit([total / each / 1e9 for each in times], "numpy dot (no native probe)")


def _numpy_peak(passes: int) -> Limit:
    side = 1024
    a = np.ones((side, side), np.float32)
    times = [_seconds(lambda: a @ a) for _ in range(passes + 1)][1:]
    return _limit([2 * side**3 / each / 1e9 for each in times], "numpy matmul (no native probe)")


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
