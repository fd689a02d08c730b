"""Matrices of 8-bit floats with scales beside them, as checkpoints hold them, to a type that is computed with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from zml.declared import Repeat
from zml.dtypes import DType
from zml.errors import CheckpointError, ShapeError
from zml.io.safetensors import STORED
from zml.shape import AxisPartition
from zml.tensor import Tensor

if TYPE_CHECKING:
    from zml.io.view import View

SUFFIXES = ("_scale_inv", "_scale")
"""What comes after the weight's name in that of its scales: DeepSeek and Qwen, compressed-tensors. Both multiply."""


def dequantize(
    weight: Tensor, scale: Tensor, dtype: Any = "bf16", block: tuple[int, int] = (128, 128)
) -> Tensor:
    """The matrix times its scales, which are multiplied as f32: `view.derived("w", dequantize, weight, scale)`.

    There is one scale, one for each row, or one for each block of so many rows and columns: the dims of `scale` say
    which. The last blocks of a row or a column may be cut short.
    """
    rows, columns = weight.shape.dims
    grid = _grid(scale.shape.dims, (rows, columns), block)
    if grid is None:
        raise CheckpointError(
            f"dequantize: the scales are {list(scale.shape.dims)}, expected {_expected(rows, columns, block)}"
        )
    steps = _steps(grid, (rows, columns), block)
    factors = jnp.reshape(scale.value.astype(jnp.float32), grid)[:, None, :, None]
    spread = jnp.broadcast_to(factors, (grid[0], steps[0], grid[1], steps[1]))
    whole = spread.reshape(grid[0] * steps[0], grid[1] * steps[1])[:rows, :columns]
    product = weight.value.astype(jnp.float32) * whole
    return weight.derive(product.astype(DType.of(dtype).numpy))


def declare(
    view: View,
    name: str,
    dims: Mapping[str, int],
    stored: Sequence[int] | None,
    repeat: Repeat | None,
    block: tuple[int, int],
    partitions: Mapping[str, AxisPartition],
) -> Tensor:
    """What View.dequantized declares."""
    found = [name + suffix for suffix in SUFFIXES if view.has(name + suffix)]
    scale = view.entry(found[0]) if found else None
    if scale is None:
        return view.tensor(name, dims, stored=stored, repeat=repeat, **partitions)
    full, full_scale = view.full(name), view.full(found[0])
    once = dict(dims) if repeat is None else repeat.once(full, dims)
    rows, columns = tuple(once.values()) if stored is None else tuple(stored)
    if _grid(scale.shape, (rows, columns), block) is None:
        raise CheckpointError(
            f"{view.where}: {full_scale} is {list(scale.shape)}, expected {_expected(rows, columns, block)} of {full}"
        )
    entry = view.entry(name)
    held = STORED.get(entry.dtype) if entry is not None else None
    # Axes of the same tags are cut alike: the first one of the rows, and of the columns.
    tags = list(once)
    at = next(
        (i for i in range(1, len(tags)) if math.prod(list(once.values())[i:]) == columns), None
    )
    if at is None:
        raise ShapeError(
            f"{full}: no axis of {once} begins the {columns} columns of the stored matrix [{rows}, {columns}]"
        )
    weight = view.tensor(name, {tags[0]: rows, tags[at]: columns}, dtype=held or DType.F8E4M3FN)
    scale_tags = ("scale_rows", "scale_columns")[: len(scale.shape)]
    scales = view.tensor(found[0], scale_tags, dtype=STORED.get(scale.dtype))
    function = partial(
        _made,
        dims=tuple(once.items()),
        at=at,
        repeat=repeat,
        dtype=view.dtype or DType.BF16,
        block=block,
    )
    made: Tensor = view.derived(name, function, weight, scales, **partitions)
    return made


def _made(
    weight: Tensor,
    scale: Tensor,
    *,
    dims: tuple[tuple[str, int], ...],
    at: int,
    repeat: Repeat | None,
    dtype: DType,
    block: tuple[int, int],
) -> Tensor:
    """The matrix, its rows and columns split into axes, and some of those repeated."""
    x = dequantize(weight, scale, dtype, block)
    rows, columns = x.tags
    x = x.split(rows, **dict(dims[:at])).split(columns, **dict(dims[at:]))
    return x if repeat is None else x.repeat_interleave(**{repeat.tag: repeat.times})


def _grid(
    scale: tuple[int, ...], matrix: tuple[int, int], block: tuple[int, int]
) -> tuple[int, int] | None:
    """How many scales there are down and across; None for dims that do not fit the matrix."""
    if len(scale) > 2 or (len(scale) == 1 and scale[0] not in (1, matrix[0])):
        return None
    grid = (*scale, 1, 1)[:2]
    fits = all(
        count in (1, size, -(-size // step))
        for count, size, step in zip(grid, matrix, block, strict=True)
    )
    return (grid[0], grid[1]) if fits else None


def _steps(
    grid: tuple[int, int], matrix: tuple[int, int], block: tuple[int, int]
) -> tuple[int, int]:
    """How many elements down and across each scale is for."""
    down, across = (
        size if count == 1 else 1 if count == size else step
        for count, size, step in zip(grid, matrix, block, strict=True)
    )
    return down, across


def _expected(rows: int, columns: int, block: tuple[int, int]) -> str:
    down, across = -(-rows // block[0]), -(-columns // block[1])
    return (
        f"one scale, [{rows}, 1] for the rows or [{down}, {across}] for blocks of {block[0]} x {block[1]} of the "
        f"[{rows}, {columns}]"
    )
