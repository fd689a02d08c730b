"""Timing matrix products: through a platform, and through numpy's BLAS as a peer."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import zml

_LEAST = 5
"""Calls behind every figure, however slow they are."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one product [m,k] x [k,n], over several calls."""

    what: str
    size: tuple[int, int, int]
    median: float
    best: float
    calls: int

    @property
    def gflops(self) -> float:
        """Billions of operations a second in the median call: a multiplication and an addition for each of m*k*n."""
        return self._operations / self.median / 1e9

    @property
    def best_gflops(self) -> float:
        """The same in the fastest call."""
        return self._operations / self.best / 1e9

    @property
    def _operations(self) -> float:
        m, k, n = self.size
        return 2.0 * m * k * n


def product(x: zml.Tensor, y: zml.Tensor) -> zml.Tensor:
    """{m,k} and {k,n} -> {m,n}, of integers with sums in i32."""
    return x.dot(y, "k", dtype="i32" if x.dtype.kind == "int" else None)


def through_platform(
    platform: zml.Platform, size: tuple[int, int, int], dtype: str, seconds: float
) -> Timing:
    """A product that is compiled for the platform; operands and result stay on the device."""
    m, k, n = size
    shapes = zml.Shape({"m": m, "k": k}, dtype), zml.Shape({"k": k, "n": n}, dtype)
    exe = platform.compile(product, *shapes, name=f"product_{m}_{k}_{n}_{dtype}")
    call = exe.bake(*(platform.put(_random(shape), shape) for shape in shapes))
    return _time(f"zml {dtype}", size, lambda: call().wait(), seconds)


def through_numpy(size: tuple[int, int, int], seconds: float) -> Timing:
    """A float32 product by numpy, which calls its BLAS."""
    m, k, n = size
    x, y = (_random(zml.Shape({"a": a, "b": b}, "f32")) for a, b in ((m, k), (k, n)))
    into = np.empty((m, n), np.float32)
    return _time("numpy f32", size, lambda: np.matmul(x, y, out=into), seconds)


def squares(
    measure: Callable[[tuple[int, int, int]], Timing], sides: list[int], seconds: float
) -> list[Timing]:
    """Square products, small to large, as long as a call of the next one would not take longer than `seconds`."""
    found: list[Timing] = []
    for side in sorted(sides):
        if found and found[-1].median * (side / found[-1].size[0]) ** 3 > seconds:
            break
        found.append(measure((side, side, side)))
    return found


def _random(shape: zml.Shape) -> np.ndarray:
    numbers = np.random.default_rng(0).uniform(-2, 2, shape.dims)
    return numbers.astype(shape.dtype.numpy)


def _time(
    what: str, size: tuple[int, int, int], call: Callable[[], object], seconds: float
) -> Timing:
    call()  # The first call pays for pages and threads that later ones find there.
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _LEAST or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return Timing(what, size, statistics.median(times), min(times), len(times))
