"""Random numbers from a counter: Threefry-2x32-20 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).

The bits of an element depend on the key, the number of the draw and the element's index alone. So they are the same on
every platform, under every sharding and in every version of JAX; `uniform` from 0 to 1 is exact too, the others are so
up to the platform's rounding. The state is explicit: each draw takes one and gives the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zml.dtypes import DType
from zml.ops import _args
from zml.shape import Shape

if TYPE_CHECKING:
    from zml.tensor import Tensor

_DERIVE = 0xFFFFFFFF
"""The draw number that no draw has: it makes keys."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """The state of a generator: a key (two words), and the number of the next draw. A pytree."""

    key: Tensor
    draw: Tensor

    @staticmethod
    def init(seed: Tensor | int) -> State:
        """The generator of a seed: an int of up to 64 bits, or an integer tensor of rank 0 with up to 32."""
        if _args.is_tensor(seed):
            _integer_scalar("State.init", seed)
            return _state(jnp.stack([seed.value.astype(jnp.uint32), jnp.uint32(0)]))
        if not 0 <= seed < 1 << 64:
            raise _args.error(
                "State.init",
                f"the seed {seed} is out of range",
                mend="give one from 0 to 2**64 - 1",
            )
        return _state(jnp.asarray(np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)))

    def fold_in(self, number: Tensor | int) -> State:
        """An independent generator for each number, such as the one of a request or of a position in a sequence.

        It depends on the key and the number; the draws before do not count.
        """
        if _args.is_tensor(number):
            _integer_scalar("fold_in", number)
            word = number.value.astype(jnp.uint32)
        else:
            word = _args.literal("fold_in", number, DType.U32)
        mixed = _threefry(self.key.value, word, jnp.uint32(_DERIVE))
        return _state(jnp.stack(mixed))


def _integer_scalar(op: str, x: Tensor) -> None:
    _args.require(op, x, "int")
    if x.rank:
        raise _args.error(op, "expected one number", x, mend="choose one, or use zml.ops.vmap")


def _state(key: jax.Array) -> State:
    return State(_args.make(key, ("word",)), _args.make(jnp.uint32(0), ()))


def bits(state: State, shape: Shape | Mapping[str, int]) -> tuple[State, Tensor]:
    """Random u32 words."""
    shape = shape.with_dtype("u32") if isinstance(shape, Shape) else Shape(shape, "u32")
    state, (words, _) = _words(state, shape)
    return state, _args.make(words, shape)


def uniform(
    state: State,
    shape: Shape | Mapping[str, int],
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: Any = None,
) -> tuple[State, Tensor]:
    """Floats with low <= x < high, in steps of (high - low) / 2**p for a type of p bits of precision."""
    shape = _float_shape("uniform", shape, dtype)
    if not low < high:
        raise _args.error("uniform", f"low={low} is not below high={high}", mend="give low < high")
    state, (first, second) = _words(state, shape)
    numpy = shape.dtype.numpy
    precision = {"bf16": 8, "f16": 11, "f32": 24, "f64": 53}[shape.dtype]
    if precision <= 32:
        unit = (first >> (32 - precision)).astype(numpy) * numpy.type(2.0**-precision)
    else:
        unit = ((first >> 5).astype(numpy) * 2.0**26 + (second >> 6).astype(numpy)) * 2.0**-53
    bounds = np.asarray([low, high]).astype(numpy)
    value = unit * (bounds[1] - bounds[0]) + bounds[0]
    # Rounding may reach the upper bound, which does not belong to the range.
    return state, _args.make(jnp.minimum(value, np.nextafter(bounds[1], bounds[0])), shape)


def normal(
    state: State, shape: Shape | Mapping[str, int], *, dtype: Any = None
) -> tuple[State, Tensor]:
    """Floats of the normal distribution with mean 0 and variance 1, up to 5.4 from 0, computed in f32."""
    shape = _float_shape("normal", shape, dtype)
    state, unit = _open_unit(state, shape)
    value = math.sqrt(2) * lax.erf_inv(2 * unit - 1)
    return state, _args.make(value.astype(shape.dtype.numpy), shape)


def gumbel(
    state: State, shape: Shape | Mapping[str, int], *, dtype: Any = None
) -> tuple[State, Tensor]:
    """Floats of the Gumbel distribution, -log(-log(u)), computed in f32."""
    shape = _float_shape("gumbel", shape, dtype)
    state, unit = _open_unit(state, shape)
    return state, _args.make((-jnp.log(-jnp.log(unit))).astype(shape.dtype.numpy), shape)


def categorical(state: State, logits: Tensor, tag: str, /) -> tuple[State, Tensor]:
    """Indices (i32) along `tag`, drawn with the probabilities softmax(logits): the Gumbel-max trick, in f32."""
    _args.require("categorical", logits, "float")
    _args.axis("categorical", logits, tag)
    state, noise = gumbel(state, logits.shape, dtype="f32")
    return state, (logits.convert("f32") + noise).argmax(tag)


def _float_shape(op: str, shape: Shape | Mapping[str, int], dtype: Any) -> Shape:
    if not isinstance(shape, Shape):
        shape = Shape(shape, dtype or "f32")
    elif dtype is not None:
        shape = shape.with_dtype(dtype)
    if shape.dtype not in ("bf16", "f16", "f32", "f64"):
        raise _args.error(
            op, f"{shape.dtype} is not drawn", shape, mend="draw bf16, f16, f32 or f64 and convert"
        )
    _args.element_type(op, shape.dtype)
    return shape


def _open_unit(state: State, shape: Shape) -> tuple[State, jax.Array]:
    """f32 numbers between 0 and 1, without both: the middles of 2**23 equal steps, all of them exact."""
    state, (words, _) = _words(state, shape)
    return state, ((words >> 9).astype(jnp.float32) + 0.5) * np.float32(2.0**-23)


def _words(state: State, shape: Shape) -> tuple[State, tuple[jax.Array, jax.Array]]:
    """Two words for each element, and the state after this draw."""
    if shape.count >= 1 << 32:
        raise _args.error(
            "random", "there are more elements than numbers in a draw", shape, mend="draw in parts"
        )
    # Computed from iotas, so that each shard makes its own part.
    index = jnp.zeros(shape.dims, jnp.uint32)
    for axis in range(shape.rank):
        stride = math.prod(shape.dims[axis + 1 :])
        index += lax.broadcasted_iota(jnp.uint32, shape.dims, axis) * np.uint32(stride)
    words = _threefry(state.key.value, index, state.draw.value)
    return State(state.key, state.draw + 1), words


def _threefry(key: jax.Array, counter: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32-20 of the block (counter, draw)."""
    # In lax: jnp's operators are functions of their own, each of which would be traced and called by the program.
    first, second = (lax.index_in_dim(key, i, keepdims=False) for i in range(2))
    third = lax.bitwise_xor(lax.bitwise_xor(first, second), np.uint32(0x1BD11BDA))
    right = lax.broadcast(lax.add(draw, second), counter.shape)

    # A loop: unrolled, the twenty rounds take most of a small program's time to trace and to compile.
    def four_rounds(group: jax.Array, state: tuple[Any, ...]) -> tuple[Any, ...]:
        left, right, rotations, others, keys = state
        for turn in range(4):
            left = lax.add(left, right)
            by = lax.index_in_dim(rotations, turn, keepdims=False)
            by = lax.broadcast(by, left.shape)
            back = lax.sub(np.uint32(32), by)
            rotated = lax.bitwise_or(
                lax.shift_left(right, by), lax.shift_right_logical(right, back)
            )
            right = lax.bitwise_xor(rotated, left)
        number = lax.convert_element_type(group, np.uint32)
        left = lax.add(left, keys[1])
        right = lax.add(right, lax.add(keys[2], lax.add(number, np.uint32(1))))
        return left, right, others, rotations, (*keys[1:], keys[0])

    rotations = (np.array([13, 15, 26, 6], np.uint32), np.array([17, 29, 16, 24], np.uint32))
    keys = (first, second, third)
    start = (lax.add(counter, first), right, *map(jnp.asarray, rotations), keys)
    left, right, *_ = lax.fori_loop(0, 5, four_rounds, start)
    return left, right
