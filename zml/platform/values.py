"""Values to the devices: host data as it is, and zeros that the devices make themselves."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from zml.buffer import Buffer, Slice
from zml.dtypes import DType
from zml.errors import ShapeError, UsageError
from zml.ops._args import element_type
from zml.pjrt import transfer
from zml.shape import Shape, check_tags
from zml.tensor import Tensor

# Making zeros by a program takes about 50 ms to compile; a copy of some from the host takes less up to this size.
_SMALL = 4 << 20


def host_value(
    value: Any, like: Iterable[str] | Shape | None
) -> tuple[np.ndarray[Any, Any], Shape]:
    """A host value as an array and its Shape. `like` is its tags, or its Shape, which a Slice may do without."""
    if isinstance(value, Tensor) and _is_computed(value):
        cuts = dict(zip(value.tags, value.shape.partitions, strict=True))
        value = Slice(value.value, value.tags, cuts)
    if isinstance(value, Slice):
        if like is not None and not isinstance(like, Shape):
            raise ShapeError(
                f"put: {value} has its tags already, given {like!r}; leave them out, or give a Shape"
            )
        shape = value.shape if like is None else like
        array = value.data
        if not shape.matches(value.shape):
            raise ShapeError(
                f"put: {value} does not fit the shape {shape}; tags and dims must be equal"
            )
    elif isinstance(like, Shape):
        shape, array = like, _array(value, like.dtype)
        if array.shape != shape.dims:
            raise ShapeError(
                f"put: a value of shape {list(array.shape)} does not fit {shape}; the dims must be equal"
            )
    else:
        tags, array = check_tags(() if like is None else like), _array(value, None)
        if len(tags) != array.ndim:
            raise ShapeError(
                f"put: a value of shape {list(array.shape)} cannot have the tags {list(tags)}; give one tag for each "
                "axis, a Shape, or a zml.Slice"
            )
        shape = Shape(dict(zip(tags, array.shape, strict=True)), DType.of(array.dtype))
    if DType.of(array.dtype) != shape.dtype:
        raise ShapeError(
            f"put: a value of element type {DType.of(array.dtype)} does not fit {shape}; convert it on the host, or "
            "put it as it is and convert it on the devices"
        )
    element_type("put", shape.dtype)
    return array if array.dtype.isnative else array.astype(shape.dtype.numpy), shape


def _is_computed(x: Tensor) -> bool:
    """Whether there is a value by now: it is neither declared nor an argument of a function that is traced."""
    return not x.is_declared and not isinstance(x.value, jax.core.Tracer)


def _array(value: Any, dtype: DType | None) -> np.ndarray[Any, Any]:
    """A numpy array. Python numbers are of `dtype`, or else of what JAX takes for them: bool, i32, f32 or c64."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value)
    if isinstance(value, Tensor | Buffer | Shape):
        raise ShapeError(
            f"put: given {value!r}; expected a value on the host: an array, a number, a list of numbers or a zml.Slice "
            "(buffer.slice() makes one of a Buffer)"
        )
    try:
        array = np.asarray(value)
        default = {"i": DType.I32, "u": DType.I32, "f": DType.F32, "c": DType.C64}
        wanted = dtype or default.get(array.dtype.kind)
        return array if wanted is None else np.asarray(value, wanted.numpy)
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeError(
            f"put: {value!r:.80} is no array of {dtype or 'numbers'}: {error}; give an array, a number or a list of "
            "numbers, in the range of the element type"
        ) from error


def put(array: np.ndarray[Any, Any], shape: Shape, where: NamedSharding, zero_copy: bool) -> Buffer:
    """A host array on the devices of a sharding."""
    return Buffer(transfer.put(array, where, zero_copy=zero_copy), shape)


def declared(name: str, leaf: Any) -> tuple[Shape, str | None]:
    """The Shape of a leaf to make zeros for, and the kind of memory it asks for."""
    if isinstance(leaf, Shape):
        return leaf, None
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.memory
    where = f" at {name}" if name else ""
    raise UsageError(
        f"zeros: {leaf!r:.80}{where}; expected a Shape, a declared Tensor, or a tree of them"
    )


def zeros(
    wanted: Sequence[tuple[Shape, NamedSharding]], default_memory: str, flags: dict[str, str]
) -> list[Buffer]:
    """Zeros of these shapes on the devices of their shardings. Large ones are made there, by one program."""
    small = [_from_host(shape, where, default_memory) for shape, where in wanted]
    large = [item for item, host in zip(wanted, small, strict=True) if not host]
    made: list[jax.Array] = []
    if large:
        dims = [(shape.dims, element_type("zeros", shape.dtype).numpy) for shape, _ in large]

        def fill() -> list[jax.Array]:
            return [jnp.zeros(*arguments) for arguments in dims]

        made = jax.jit(
            fill, out_shardings=[at for _, at in large], compiler_options=flags or None
        )()
    rest = iter(made)
    return [
        Buffer(_host_zeros(shape, where) if host else next(rest), shape)
        for (shape, where), host in zip(wanted, small, strict=True)
    ]


def _from_host(shape: Shape, where: NamedSharding, default_memory: str) -> bool:
    element_type("zeros", shape.dtype)
    return shape.byte_size <= _SMALL or where.memory_kind not in (None, default_memory)


def _host_zeros(shape: Shape, where: NamedSharding) -> jax.Array:
    return transfer.put(np.zeros(shape.dims, shape.dtype.numpy), where)
