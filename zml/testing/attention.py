"""The conformance suite of attention: cases that every backend passes, against a float64 reference in numpy.

A backend's test is `check(Attention.using(backend), case)` for each of CASES. Inputs are drawn from a fresh seed, which
the error of a failure names; give it to `check` to draw them again.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from zml.attention import Attention, Parameters
from zml.dtypes import DType
from zml.tensor import Tensor

type Array = np.ndarray[Any, Any]
type _Run = Callable[[Array, Array, Array], Array]

# Of a weighted mean of values of the size of 1: the rounding of the weights and of the result.
_TOLERANCE = {"f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}


@dataclass(frozen=True)
class Case:
    """One call: `queries` tokens of `heads` heads over a cache of `length` positions of `kv_heads` heads.

    `start` and `lengths` have a number for each sequence where there is a `batch`, else one. `poison` is what stands in
    the keys and values that no query may see.
    """

    name: str
    queries: int = 1
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    length: int = 13
    start: int | tuple[int, ...] = 0
    lengths: int | tuple[int, ...] | None = None
    batch: int | None = None
    dtype: str = "f32"
    parameters: Parameters = field(default=Parameters())
    poison: float | None = None

    def __str__(self) -> str:
        return self.name


def _cases() -> Iterator[Case]:
    for kind, heads, kv_heads in (("mha", 3, 3), ("gqa", 6, 2), ("mqa", 5, 1)):
        sizes: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads}
        yield Case(f"{kind}-decode", start=11, **sizes)
        yield Case(f"{kind}-prefill", queries=7, length=7, **sizes)
        yield Case(f"{kind}-chunk", queries=5, start=4, poison=math.nan, **sizes)
        yield Case(f"{kind}-not-causal", queries=5, parameters=Parameters(causal=False), **sizes)
    for head_dim in (64, 80, 96, 128, 256):
        yield Case(f"head-dim-{head_dim}-prefill", queries=9, head_dim=head_dim)
        yield Case(f"head-dim-{head_dim}-decode", head_dim=head_dim, start=12, poison=math.nan)
    for dtype in ("bf16", "f16"):
        yield Case(f"{dtype}-prefill", queries=17, length=40, dtype=dtype)
        yield Case(f"{dtype}-decode", length=40, start=33, dtype=dtype, poison=math.nan)
        soft = Parameters(softcap=20.0, window=9)
        yield Case(f"{dtype}-gemma", queries=6, length=40, start=21, dtype=dtype, parameters=soft)
    for window in (1, 4, 100):
        near = Parameters(window=window)
        yield Case(f"window-{window}-prefill", queries=11, parameters=near)
        yield Case(f"window-{window}-decode", start=10, parameters=near, poison=math.nan)
        wide = Parameters(causal=False, window=window)
        yield Case(f"window-{window}-not-causal", queries=13, parameters=wide)
    for name, parameters in (
        ("softcap", Parameters(softcap=1.5)),
        ("scale", Parameters(scale=0.3)),
        ("softcap-scale", Parameters(softcap=5.0, scale=1.0)),
    ):
        yield Case(f"{name}-prefill", queries=8, parameters=parameters)
        yield Case(f"{name}-decode", start=12, parameters=parameters)
    ragged: dict[str, Any] = {"batch": 3, "poison": math.nan}
    yield Case("batch-decode", batch=3, start=12)
    yield Case("batch-prefill", batch=2, queries=9)
    yield Case("ragged-decode", start=(0, 11, 5), **ragged)
    yield Case("ragged-chunk", queries=4, start=(8, 0, 3), **ragged)
    yield Case("ragged-prefill", queries=9, lengths=(9, 1, 5), **ragged)
    yield Case("ragged-empty-row", queries=3, lengths=(0, 3, 13), **ragged)
    both: dict[str, Any] = {"start": (2, 6, 0), "lengths": (4, 9, 1), **ragged}
    yield Case("ragged-chunk-with-padding", queries=3, **both)
    yield Case("ragged-window", queries=3, parameters=Parameters(window=3), **both)
    wide = Parameters(causal=False)
    yield Case("ragged-not-causal", queries=5, lengths=(2, 13, 7), parameters=wide, **ragged)
    yield Case("one-length", queries=4, lengths=2, poison=math.nan)
    for poison in (math.inf, -math.inf):
        yield Case(f"poison-{poison}-decode", start=3, poison=poison)
        yield Case(f"poison-{poison}-chunk", queries=4, start=3, poison=poison)
    yield Case("nan-poison-f16", queries=4, start=3, poison=math.nan, dtype="f16")
    yield Case("first-token", start=0, poison=math.nan)
    yield Case("last-position", length=257, start=256)
    yield Case("one-position", length=1)
    # Many blocks of keys and of queries, with borders within them.
    long: dict[str, Any] = {"poison": math.nan, "head_dim": 16}
    yield Case("long-decode", length=1100, start=1037, **long)
    yield Case("long-chunk", queries=70, length=700, start=555, **long)
    yield Case("long-prefill", queries=300, length=300, heads=3, kv_heads=1, **long)
    near = Parameters(window=200)
    yield Case("long-window-decode", length=1100, start=900, parameters=near, **long)
    yield Case("long-window-prefill", queries=300, length=300, heads=2, parameters=near, **long)
    wide = Parameters(causal=False, window=130)
    yield Case(
        "long-window-not-causal",
        queries=200,
        length=400,
        heads=2,
        start=100,
        parameters=wide,
        **long,
    )
    yield Case(
        "long-ragged", queries=3, length=600, batch=2, start=(500, 30), lengths=(502, 600), **long
    )
    yield Case("bf16-long-decode", heads=8, length=600, start=599, head_dim=128, dtype="bf16")
    yield Case("bf16-long-prefill", queries=130, length=130, head_dim=64, dtype="bf16")
    yield Case("head-dim-72-prefill", queries=20, length=150, head_dim=72, dtype="bf16")
    yield Case("head-dim-72-decode", length=150, start=140, head_dim=72, dtype="bf16")
    yield Case("odd-sizes", queries=7, heads=15, kv_heads=5, head_dim=10, length=23, start=9)


CASES = tuple(_cases())


def check(attention: Attention, case: Case, seed: int | None = None) -> None:
    """Runs a case, and again with a NaN among what some queries see. Raises AssertionError, with the seed."""
    seed = secrets.randbits(32) if seed is None else seed
    try:
        rng = np.random.default_rng(seed)
        q, k, v = draw(case, rng)
        run = program(attention, case)
        _compare(run, case, q, k, v)
        _check_that_nan_spreads(run, case, rng, q, k, v)
    except AssertionError as error:
        raise AssertionError(f"{case!r} with seed={seed}: {error}") from error


def draw(case: Case, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """q [b, q, h, hd], k and v [b, h, k, hd] in the element type of the case."""
    batch = case.batch or 1
    shapes = [(batch, case.queries, case.heads, case.head_dim)]
    shapes += [(batch, case.kv_heads, case.length, case.head_dim)] * 2
    q, k, v = (rng.standard_normal(s).astype(DType.of(case.dtype).numpy) for s in shapes)
    if case.poison is not None:
        for b in range(batch):
            unseen = ~visible(case, b).any(0)
            k[b, :, unseen] = v[b, :, unseen] = case.poison
    return q, k, v


def program(attention: Attention, case: Case) -> _Run:
    """The compiled call: arrays as `draw` makes them -> the result [b, q, h, hd] in float64.

    It checks the result's tags and element type.
    """
    kind = case.parameters

    @jax.jit
    def call(xs: list[Tensor], start: Tensor, lengths: Tensor | None) -> Tensor:
        return attention(
            *xs, start=start, lengths=lengths, causal=kind.causal, window=kind.window,
            softcap=kind.softcap, scale=kind.scale,
        )  # fmt: skip

    def run(*arrays: Array) -> Array:
        tags = (("b", "q", "h", "hd"), ("b", "h", "k", "hd"), ("b", "h", "k", "hd"))
        xs = [Tensor(array, names) for array, names in zip(arrays, tags, strict=True)]
        if case.batch is None:
            xs = [x.squeeze("b") for x in xs]
        # As arguments of the program, not constants of it.
        lengths = None if case.lengths is None else _tensor(case.lengths)
        got = call(xs, _tensor(case.start), lengths)
        assert got.dtype == case.dtype, f"the result is {got.shape}"
        assert got.tags == xs[0].tags, f"the result is {got.shape}"
        result = np.asarray(got.value).astype(np.float64)
        return result if case.batch is not None else result[None]

    return run


def reference(case: Case, q: Array, k: Array, v: Array) -> Array:
    """The same in float64, one query and one head at a time, looking at nothing but what the query sees."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    kind, group = case.parameters, case.heads // case.kv_heads
    out = np.zeros(q.shape)
    for b, row in enumerate(q):
        seen = visible(case, b)
        for i, j in np.ndindex(case.queries, case.heads):
            keys, values = k[b, j // group, seen[i]], v[b, j // group, seen[i]]
            if not len(keys):
                continue
            scores = keys @ row[i, j] * (kind.scale or case.head_dim**-0.5)
            if kind.softcap is not None:
                scores = kind.softcap * np.tanh(scores / kind.softcap)
            weights = np.exp(scores - scores.max())
            out[b, i, j] = weights @ values / weights.sum()
    return out


def visible(case: Case, row: int) -> Array:
    """Which keys the queries of a sequence see: [q, k] of bool, by the definition."""
    start = case.start if isinstance(case.start, int) else case.start[row]
    lengths = case.length if case.lengths is None else case.lengths
    there = lengths if isinstance(lengths, int) else lengths[row]
    kind = case.parameters
    seen = np.zeros((case.queries, case.length), bool)
    for i, j in np.ndindex(*seen.shape):
        distance = start + i - j
        seen[i, j] = (
            j < there
            and (distance >= 0 or not kind.causal)
            and (kind.window is None or abs(distance) < kind.window)
        )
    return seen


def _tensor(numbers: int | tuple[int, ...]) -> Tensor:
    return Tensor(np.asarray(numbers, np.int32), () if isinstance(numbers, int) else ("b",))


def _compare(run: _Run, case: Case, q: Array, k: Array, v: Array) -> None:
    got, expected = run(q, k, v), reference(case, q, k, v)
    assert np.isfinite(expected).all(), "the reference is not finite"
    tolerance = _TOLERANCE[case.dtype]
    # NaN is never equal here, not even to another NaN.
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=False)


def _check_that_nan_spreads(
    run: _Run, case: Case, rng: np.random.Generator, q: Array, k: Array, v: Array
) -> None:
    """A NaN in a value or in a key makes those queries NaN that see it, and no other."""
    b = int(rng.integers(case.batch or 1))
    seen = visible(case, b)
    places = np.flatnonzero(seen.any(0))
    if not len(places):
        return
    place, head = int(rng.choice(places)), int(rng.integers(case.kv_heads))
    group = case.heads // case.kv_heads
    expected = np.zeros(q.shape[:3], bool)
    expected[b, seen[:, place], head * group : (head + 1) * group] = True
    for x in (k, v):
        before = x[b, head, place].copy()
        x[b, head, place] = np.nan
        got = run(q, k, v)
        x[b, head, place] = before
        np.testing.assert_array_equal(np.isnan(got).any(-1), expected, f"NaN at {place}")
