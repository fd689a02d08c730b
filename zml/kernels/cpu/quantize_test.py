import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml.kernels.cpu import library
from zml.kernels.cpu import quantize as quantizing
from zml.kernels.cpu.formats import Format, Packed, dequantize, pack, unpack
from zml.kernels.cpu.quantize import by_numpy, quantize, quantize_rows
from zml.testing import fresh

_BF16 = np.dtype(ml_dtypes.bfloat16)
_TYPES = [np.dtype(np.float32), _BF16, np.dtype(np.float16)]
_SIZES = [(1, 1), (1, 33), (16, 32), (17, 31), (40, 100), (64, 256)]
_SMALLEST = 2.0**-126


def _weights(rng: np.random.Generator, dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """Of many sizes: heavy tails, zeros, ties, and the ends of the range."""
    for size in _SIZES:
        w = rng.standard_t(3, size)
        yield w.astype(dtype)
        yield (w * 1e-4).astype(dtype)
        yield (w * (rng.random(size) < 0.05)).astype(dtype)
        yield rng.choice([-2, -1, -0.0, 0.5, 1, 2], size).astype(dtype)
    info: Any = ml_dtypes.finfo
    largest = float(info(dtype).max)
    for scale in (largest, 0.3 * largest, 1e-38, 1e-40, 1e-44):
        yield (np.clip(rng.standard_normal((33, 70)), -1, 1) * scale).astype(dtype)


def _by_hand(w: np.ndarray, format: Format) -> Packed:
    return pack(*by_numpy(w.astype(np.float32), format), format)


def _same(a: Packed, b: Packed) -> None:
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.scales.view(np.uint8), b.scales.view(np.uint8))


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_the_library_gives_the_bits_that_numpy_gives(dtype: np.dtype[Any], format: Format) -> None:
    for w in _weights(fresh.generator(), dtype):
        _same(quantize(w, format), _by_hand(w, format))


@pytest.mark.parametrize("format", Format)
def test_without_the_library_numpy_does_it_a_few_rows_at_a_time(
    format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = fresh.generator().standard_normal((70, 90), np.float32)
    expected = quantize(w, format)
    monkeypatch.setattr(library, "load", lambda: library.Missing("a test"))
    monkeypatch.setattr(quantizing, "_ELEMENTS", 2000)
    _same(quantize(w, format), expected)
    w[69, 89] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize(w, format)


def run_process() -> None:
    """Prints the instruction set and a digest of all that it makes of the same weights."""
    digest, rng = hashlib.sha256(), np.random.default_rng(1)
    for dtype in _TYPES:
        for w in _weights(rng, dtype):
            for format in Format:
                weight = quantize(w, format)
                digest.update(weight.values.tobytes() + weight.scales.tobytes())
    native = library.load()
    print(native.isa if isinstance(native, library.Library) else "none", digest.hexdigest())


def test_all_instruction_sets_give_the_same() -> None:
    names = ["avx512_bf16", "avx512", "avx2", "neon_bf16", "neon_dot", "neon", "portable"]
    code = f"from {__name__} import run_process; run_process()"
    paths = os.pathsep.join([*filter(None, sys.path), str(Path.cwd())])
    digests = {}
    for name in names:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": paths, "ZML_CPU_ISA": name},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            assert "does not have it" in done.stderr or "is unknown" in done.stderr, done.stderr
            continue
        used, digests[name] = done.stdout.split()
        assert used in (name, "none")
    assert digests.keys() >= {"portable"} and len(set(digests.values())) == 1, digests


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_int8_against_its_definition(dtype: np.dtype[Any]) -> None:
    """scale: the least bfloat16 that is at least the largest / 127. q: w / scale to the nearest, ties to even."""
    for w in _weights(fresh.generator(), dtype):
        q, scales = unpack(quantize(w, Format.INT8))
        wide = np.pad(w.astype(np.float64), ((0, 0), (0, -w.shape[1] % 32)))
        groups = wide.reshape(len(w), -1, 32)
        for n, g in np.ndindex(scales.shape):
            group, scale = groups[n, g], float(scales[n, g])
            peak = float(np.abs(group).max())
            if peak == 0:
                assert scale == 0
                continue
            below = float(np.array(scales[n, g].view(np.uint16) - 1, np.uint16).view(_BF16))
            # The quotient is rounded to float32 before it is rounded up.
            assert scale >= _SMALLEST and scale * 127 >= peak * (1 - 2**-24)
            assert scale == _SMALLEST or below * 127 < peak * (1 + 2**-24)
            for k in range(32 * g, min(32 * g + 32, w.shape[1])):
                exact = Fraction(float(w[n, k])) / Fraction(scale)
                if dtype == np.float32:  # the quotient may be rounded to a tie
                    assert abs(int(q[n, k]) - exact) <= Fraction(1, 2) + Fraction(1, 2**17)
                else:
                    assert int(q[n, k]) == round(exact)


def test_int8_per_channel_has_the_scale_of_the_row() -> None:
    w = fresh.generator().standard_normal((20, 100)).astype(_BF16)
    q, scales = unpack(quantize(w, Format.INT8_CHANNEL))
    wide = w.astype(np.float64)
    np.testing.assert_allclose(scales[:, 0], np.abs(wide).max(1) / 127, rtol=2**-23)
    assert np.abs(q - wide / scales).max() <= 0.5 + 1e-5
    assert (np.abs(q).max(1) == 127).all()


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_int4_has_the_best_of_its_scales(dtype: np.dtype[Any]) -> None:
    rng = fresh.generator()
    w = rng.standard_t(4, (48, 96)).astype(dtype)
    q, scales = unpack(quantize(w, Format.INT4))
    groups = w.astype(np.float64).reshape(48, 3, 32)
    found = ((groups - q.reshape(48, 3, 32) * scales[..., None].astype(np.float64)) ** 2).sum(-1)
    at = np.abs(groups).argmax(-1)[..., None]
    largest = np.take_along_axis(groups, at, -1)[..., 0]
    for divisor in quantizing._DIVISORS:
        quotient = largest.astype(np.float32) / np.float32(divisor)
        tried = quotient.astype(_BF16).astype(np.float64)[..., None]
        error = ((groups - tried * np.clip(np.rint(groups / tried), -8, 7)) ** 2).sum(-1)
        assert (found <= error * (1 + 1e-5)).all()
        if divisor == -8:
            assert found.sum() < 0.95 * error.sum()  # what a search is good for
    # Each number is the nearest of those that there are.
    exact = groups / scales[..., None].astype(np.float64)
    assert np.abs(q.reshape(48, 3, 32) - np.clip(exact, -8, 7)).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("format", Format)
def test_how_far_off_a_weight_is_at_most(format: Format) -> None:
    w = fresh.generator().standard_normal((33, 70), np.float32)
    off = np.abs(dequantize(quantize(w, format)) - w)
    if format is Format.INT8_CHANNEL:
        assert (off <= np.abs(w).max(1, keepdims=True) / 254 * 1.0001).all()
        return
    padded, errors = (np.pad(x, ((0, 0), (0, -70 % 32))).reshape(33, -1, 32) for x in (w, off))
    largest = np.abs(padded).max(-1)
    if format is Format.INT8:
        assert (errors.max(-1) <= largest / 254 * 1.01).all()  # half a step, which bfloat16 rounds
        return
    # The smallest scale cuts off most, from a weight of the other sign as large as the largest.
    step = 1 / max(-d for d in quantizing._DIVISORS)
    assert (errors.max(-1) <= largest * (1 - 7 * step) * 1.01).all()
    # And no worse in sum than the divisor that cuts nothing, half a step from each.
    assert ((errors**2).sum(-1) <= 32 * (largest / 14) ** 2 * 1.02).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_what_is_no_number_is_refused_wherever_it_is(
    dtype: np.dtype[Any], format: Format, bad: float
) -> None:
    rng = fresh.generator()
    for rows, columns in _SIZES:
        w = rng.standard_normal((rows, columns)).astype(dtype)
        w[rng.integers(rows), rng.integers(columns)] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            quantize(w, format)


def test_threads_share_a_weight() -> None:
    w = fresh.generator().standard_normal((160, 100)).astype(_BF16)
    expected = quantize(w, Format.INT4)
    values, scales = np.empty_like(expected.values), np.empty_like(expected.scales)

    def part(first: int) -> bool:
        blocks = slice(first // 16, first // 16 + 2)
        return quantize_rows(w[first : first + 32], Format.INT4, values[blocks], scales[blocks])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(part, range(0, 160, 32)))
    _same(Packed(values, scales, 160, 100, Format.INT4), expected)


def test_rows_that_are_apart_are_read_where_they_are() -> None:
    w = fresh.generator().standard_normal((32, 64), np.float32)
    _same(quantize(w[::2, 1::2], Format.INT8), quantize(w[::2, 1::2].copy(), Format.INT8))
