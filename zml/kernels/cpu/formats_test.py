from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.kernels.cpu.formats import Format, Packed, dequantize, pack, unpack
from zml.testing import fresh

_SIZES = [(1, 1), (16, 32), (17, 33), (40, 100), (3, 64)]


def _draw(format: Format, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = fresh.generator()
    low, high = format.limits
    q = rng.integers(low, high + 1, (rows, columns)).astype(np.int8)
    groups = 1 if format is Format.INT8_CHANNEL else -(-columns // 32)
    return q, rng.standard_normal((rows, groups)).astype(format.scales_dtype)


def _number(weight: Packed, n: int, k: int) -> int:
    """q[n, k] by the words of formats.md."""
    r, i, g, c = n // 16, n % 16, k // 32, k % 32
    group = weight.values[r, g]
    if weight.format is not Format.INT4:
        return int(group[32 * (c // 2) + 2 * i + c % 2])
    v, s, j = c // 8, c % 8 // 2, c % 2
    at = 64 * v + 4 * i + 2 * j
    return (int.from_bytes(group[at : at + 2].tobytes(), "little") >> (4 * s)) % 16 - 8


@pytest.mark.parametrize(("rows", "columns"), _SIZES)
@pytest.mark.parametrize("format", Format)
def test_what_is_packed_is_where_the_formats_say(format: Format, rows: int, columns: int) -> None:
    q, scales = _draw(format, rows, columns)
    weight = pack(q, scales, format)
    found = [[_number(weight, n, k) for k in range(columns)] for n in range(rows)]
    np.testing.assert_array_equal(found, q)
    for n in range(rows):
        for g in range(scales.shape[1]):
            block = weight.scales[n // 16]
            at = block if format is Format.INT8_CHANNEL else block[g]
            assert at[n % 16] == scales[n, g]


@pytest.mark.parametrize(("rows", "columns"), _SIZES)
@pytest.mark.parametrize("format", Format)
def test_the_padding_is_zeros(format: Format, rows: int, columns: int) -> None:
    q, scales = _draw(format, rows, columns)
    weight = pack(q, scales, format)
    blocks, groups, _ = weight.values.shape
    whole = Packed(weight.values, weight.scales, 16 * blocks, 32 * groups, format)
    numbers, factors = unpack(whole)
    numbers[:rows, :columns] = 0
    factors[:rows] = 0
    assert not numbers.any() and not factors.astype(np.float32).any()


@pytest.mark.parametrize(("rows", "columns"), _SIZES)
@pytest.mark.parametrize("format", Format)
def test_unpacking_gives_back_what_was_packed(format: Format, rows: int, columns: int) -> None:
    q, scales = _draw(format, rows, columns)
    weight = pack(q, scales, format)
    numbers, factors = unpack(weight)
    np.testing.assert_array_equal(numbers, q)
    np.testing.assert_array_equal(factors, scales)
    each = (
        np.repeat(scales.astype(np.float64), 32, 1)[:, :columns] if scales.shape[1] > 1 else scales
    )
    wide = dequantize(weight)
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide, (q * each.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("format", Format)
def test_unpacking_in_a_program_is_the_same(format: Format) -> None:
    weight = pack(*_draw(format, 21, 70), format)

    def unpacked(values: Any, scales: Any) -> Any:
        return dequantize(Packed(values, scales, 21, 70, format))

    found = jax.jit(unpacked)(jnp.asarray(weight.values), jnp.asarray(weight.scales))
    np.testing.assert_array_equal(found, dequantize(weight))


def test_arrays_that_do_not_fit_are_refused() -> None:
    weight = pack(*_draw(Format.INT8, 16, 32), Format.INT8)
    with pytest.raises(
        ValueError, match=r"values of int8 \[17, 32\]: given int8\[1, 1, 512\], expected"
    ):
        Packed(weight.values, weight.scales, 17, 32, Format.INT8)
    with pytest.raises(ValueError, match="values of int4"):
        Packed(weight.values, weight.scales, 16, 32, Format.INT4)
    with pytest.raises(ValueError, match=r"scales of int8 .* given float32"):
        Packed(weight.values, weight.scales.astype(np.float32), 16, 32, Format.INT8)
