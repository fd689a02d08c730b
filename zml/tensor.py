"""Tensor: a value whose axes have names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from zml.declared import Declared, Derived, Source
from zml.dtypes import DType
from zml.errors import ShapeError
from zml.ops import _args, arithmetic, elementwise, indexing, linalg, reduction, shaping, sorting
from zml.ops import memory as memory_ops
from zml.ops._args import Operand
from zml.shape import OPEN, AxisPartition, Partition, Shape, check_tags

# Tags and partitioning: what JAX keeps with a traced value.
type _Static = tuple[tuple[str, ...], tuple[AxisPartition, ...]]


class Tensor:
    """A tagged value: a JAX array or tracer, or a declared input that has a shape and no value yet.

    A JAX pytree with the array as its only child; tags and partitioning are static. So `jax.jit`, `jax.grad` and
    `jax.tree` work on functions of Tensors, and any `jax` function on `x.value`. In `jax.vmap(f)(x)` f sees a Tensor
    without the mapped axis; nobody has named the mapped axis of the result, which `zml.ops.vmap` does.

    All operations of `zml.ops` that have a tensor to start from are methods too.
    """

    __slots__ = ("__weakref__", "_partitions", "_shape", "_tags", "_value")

    # numpy's and JAX's operators leave the work to those of Tensor, which give the better error.
    __array_ufunc__ = None

    _value: Any
    _tags: tuple[str, ...]
    _partitions: tuple[AxisPartition, ...]
    _shape: Shape | None

    def __init__(
        self,
        value: jax.Array | np.ndarray[Any, Any] | np.generic,
        tags: Iterable[str],
        partitions: Mapping[str, AxisPartition] | None = None,
    ) -> None:
        self._tags = check_tags(tags)
        if not isinstance(value, jax.Array | np.ndarray | np.generic):
            raise ShapeError(
                f"Tensor: given a {type(value).__name__}, expected an array; take ops.constant for a number, "
                "Tensor.declare for a shape"
            )
        if value.ndim != len(self._tags):
            raise ShapeError(
                f"Tensor: an array of shape {list(value.shape)} cannot have the tags {list(self._tags)}; "
                "give one tag for each axis"
            )
        dtype = DType.of(value.dtype)
        self._value = _args.checked("Tensor", jnp.asarray(value), dtype)
        shape = Shape(dict(zip(self._tags, value.shape, strict=True)), dtype, partitions)
        self._partitions = shape.partitions
        self._shape = shape

    @classmethod
    def declare(
        cls,
        shape: Shape | Mapping[str, int],
        dtype: Any = None,
        *,
        memory: str | None = None,
        source: Source | Derived | None = None,
    ) -> Tensor:
        """An input of a program to come: `Tensor.declare(shape)` or `Tensor.declare({"s": 16}, "i32")`.

        `memory` is the kind of memory that it will be in, the device's own by default; `source` where its elements are
        in a checkpoint.
        """
        if not isinstance(shape, Shape):
            shape = Shape(shape, dtype)
        elif dtype is not None:
            shape = shape.with_dtype(dtype)
        numpy = _args.element_type("declare", shape.dtype).numpy
        x = _rebuild((shape.tags, shape.partitions), (Declared(shape.dims, numpy, source),))
        return x if memory is None else x.in_memory(memory)

    @property
    def is_declared(self) -> bool:
        """Whether it has a shape and no value yet."""
        return isinstance(self._value, jax.ShapeDtypeStruct)

    @property
    def source(self) -> Source | Derived | None:
        """Where a declared tensor's elements are in a checkpoint, or what makes them of others, if they are in one."""
        return self._value.source if isinstance(self._value, Declared) else None

    @property
    def memory(self) -> str | None:
        """The kind of memory a declared tensor will be in, None for the device's own."""
        return self._value.memory if isinstance(self._value, Declared) else None

    def declared_in(self, memory: str) -> Tensor:
        """The same declared tensor in another kind of memory."""
        spec = Declared(self._value.shape, self._value.dtype, self.source, memory)
        return _rebuild((self._tags, self._partitions), (spec,))

    @property
    def value(self) -> jax.Array:
        """The array, of whose axes only the positions are known."""
        if isinstance(self._value, jax.ShapeDtypeStruct):
            raise ShapeError(
                f"{self.shape} is a declared input without a value; compile the function and call it"
            )
        return self._value

    @property
    def shape(self) -> Shape:
        """Dims, tags, element type and partitioning."""
        # Kept: operations ask for it again and again while they are traced.
        if self._shape is not None:
            return self._shape
        dims = self._value.shape
        if len(dims) != len(self._tags):
            raise ShapeError(
                f"a Tensor with the tags {list(self._tags)} has an array of shape {list(dims)}: a JAX transformation "
                "added or took an axis without a tag; use zml.ops.vmap or zml.ops.scan, which know the tag, or name "
                "the axes again: zml.Tensor(x.value, tags)"
            )
        cuts = dict(zip(self._tags, self._partitions, strict=True))
        self._shape = Shape(dict(zip(self._tags, dims, strict=True)), self._value.dtype, cuts)
        return self._shape

    @property
    def tags(self) -> tuple[str, ...]:
        """The names of the axes, major to minor."""
        return self._tags

    @property
    def dtype(self) -> DType:
        """The element type."""
        return DType.of(self._value.dtype)

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self._tags)

    @property
    def count(self) -> int:
        """How many elements it has."""
        return self.shape.count

    def dim(self, tag: str) -> int:
        """The size of the axis of that tag."""
        return self.shape.dim(tag)

    def axis(self, tag: str) -> int:
        """The position of the axis of that tag."""
        return self.shape.axis(tag)

    def partitioned(self, **partitions: AxisPartition) -> Tensor:
        """The same value with other partitioning of the named axes: `w.partitioned(dout="model")`.

        In a function that is compiled, the value is cut so from there on.
        """
        shape = self.shape.partitioned(**partitions)
        x = _rebuild((shape.tags, shape.partitions), (self._value,))
        return x if x.is_declared else memory_ops.constrained(x)

    def derive(
        self, value: jax.Array, tags: Iterable[str] | None = None, *others: Tensor
    ) -> Tensor:
        """The result of an operation on this tensor and perhaps others: a value and its tags.

        An axis that comes whole from an operand, with its tag and its dim, keeps the partitioning it had there. Where
        two axes would then be cut over one logical axis the second is open.
        """
        tags = self._tags if tags is None else check_tags(tags)
        cuts: list[AxisPartition] = []
        for tag, dim in zip(tags, value.shape, strict=True):
            cut: AxisPartition = OPEN
            for source in (self, *others):
                shape = source.shape
                if cut is OPEN and tag in shape and shape.dim(tag) == dim:
                    cut = shape.partition(tag)
            cuts.append(OPEN if not isinstance(cut, Partition) and cut in cuts else cut)
        return _rebuild((tags, tuple(cuts)), (value,))

    def with_value(self, value: jax.Array) -> Tensor:
        """The same tags and partitioning around another array of that rank."""
        return _rebuild((self._tags, self._partitions), (value,))

    def with_first_axis(self, tag: str) -> Tensor:
        """Names the axis that a JAX transformation put before those that have tags: what comes out of `jax.vmap(f)`."""
        tags = check_tags((tag, *self._tags))
        return _rebuild((tags, (OPEN, *self._partitions)), (self._value,))

    def __repr__(self) -> str:
        if not hasattr(self._value, "dtype") or len(self._value.shape) != len(self._tags):
            # JAX may rebuild a pytree around any object.
            return f"Tensor({self._value!r}, {self._tags})"
        return f"Tensor({self.shape})"

    # elementwise
    neg = elementwise.neg
    abs = elementwise.abs
    sign = elementwise.sign
    square = elementwise.square
    reciprocal = elementwise.reciprocal
    sqrt = elementwise.sqrt
    rsqrt = elementwise.rsqrt
    cbrt = elementwise.cbrt
    exp = elementwise.exp
    expm1 = elementwise.expm1
    log = elementwise.log
    log1p = elementwise.log1p
    sin = elementwise.sin
    cos = elementwise.cos
    tan = elementwise.tan
    asin = elementwise.asin
    acos = elementwise.acos
    atan = elementwise.atan
    sinh = elementwise.sinh
    cosh = elementwise.cosh
    tanh = elementwise.tanh
    erf = elementwise.erf
    erf_inv = elementwise.erf_inv
    sigmoid = elementwise.sigmoid
    relu = elementwise.relu
    silu = elementwise.silu
    gelu = elementwise.gelu
    softplus = elementwise.softplus
    floor = elementwise.floor
    ceil = elementwise.ceil
    trunc = elementwise.trunc
    round = elementwise.round
    is_finite = elementwise.is_finite
    is_nan = elementwise.is_nan
    real = elementwise.real
    imag = elementwise.imag
    conj = elementwise.conj
    not_ = elementwise.not_
    population_count = elementwise.population_count
    count_leading_zeros = elementwise.count_leading_zeros
    convert = elementwise.convert
    bitcast = elementwise.bitcast
    clamp = elementwise.clamp

    # arithmetic
    add = arithmetic.add
    sub = arithmetic.sub
    mul = arithmetic.mul
    div = arithmetic.div
    floor_div = arithmetic.floor_div
    remainder = arithmetic.remainder
    pow = arithmetic.pow
    maximum = arithmetic.maximum
    minimum = arithmetic.minimum
    eq = arithmetic.eq
    ne = arithmetic.ne
    lt = arithmetic.lt
    le = arithmetic.le
    gt = arithmetic.gt
    ge = arithmetic.ge
    and_ = arithmetic.and_
    or_ = arithmetic.or_
    xor = arithmetic.xor
    shift_left = arithmetic.shift_left
    shift_right = arithmetic.shift_right
    select = arithmetic.select

    # linalg
    dot = linalg.dot
    outer = linalg.outer
    conv1d = linalg.conv1d
    conv2d = linalg.conv2d
    cholesky = linalg.cholesky
    triangular_solve = linalg.triangular_solve
    fft = linalg.fft
    ifft = linalg.ifft
    rfft = linalg.rfft
    irfft = linalg.irfft

    # reduction
    sum = reduction.sum
    prod = reduction.prod
    mean = reduction.mean
    max = reduction.max
    min = reduction.min
    any = reduction.any
    all = reduction.all
    argmax = reduction.argmax
    argmin = reduction.argmin
    cumsum = reduction.cumsum
    cumprod = reduction.cumprod
    softmax = reduction.softmax
    log_softmax = reduction.log_softmax
    logsumexp = reduction.logsumexp
    max_pool = reduction.max_pool
    sum_pool = reduction.sum_pool
    avg_pool = reduction.avg_pool

    # sorting
    sort = sorting.sort
    argsort = sorting.argsort
    top_k = sorting.top_k

    # shaping
    reshape = shaping.reshape
    transpose = shaping.transpose
    rename = shaping.rename
    split = shaping.split
    merge = shaping.merge
    flatten = shaping.flatten
    squeeze = shaping.squeeze
    insert = shaping.insert
    broadcast = shaping.broadcast
    repeat = shaping.repeat
    repeat_interleave = shaping.repeat_interleave
    chunk = shaping.chunk
    reverse = shaping.reverse
    pad = shaping.pad
    roll = shaping.roll
    diagonal = shaping.diagonal
    triangular = shaping.triangular

    # indexing
    slice = indexing.slice
    choose = indexing.choose
    dynamic_slice = indexing.dynamic_slice
    dynamic_update_slice = indexing.dynamic_update_slice
    gather = indexing.gather
    scatter = indexing.scatter

    # memory
    reuse_buffer = memory_ops.reuse_buffer
    in_memory = memory_ops.in_memory

    # operators
    __neg__ = elementwise.neg
    __abs__ = elementwise.abs
    __invert__ = elementwise.not_
    __add__ = __radd__ = arithmetic.add
    __mul__ = __rmul__ = arithmetic.mul
    __sub__ = arithmetic.sub
    __truediv__ = arithmetic.div
    __floordiv__ = arithmetic.floor_div
    __mod__ = arithmetic.remainder
    __pow__ = arithmetic.pow
    __and__ = __rand__ = arithmetic.and_
    __or__ = __ror__ = arithmetic.or_
    __xor__ = __rxor__ = arithmetic.xor
    __lshift__ = arithmetic.shift_left
    __rshift__ = arithmetic.shift_right
    __lt__ = arithmetic.lt
    __le__ = arithmetic.le
    __gt__ = arithmetic.gt
    __ge__ = arithmetic.ge

    def __rsub__(self, x: Operand) -> Tensor:
        return arithmetic.sub(x, self)

    def __rtruediv__(self, x: Operand) -> Tensor:
        return arithmetic.div(x, self)

    def __rfloordiv__(self, x: Operand) -> Tensor:
        return arithmetic.floor_div(x, self)

    def __rmod__(self, x: Operand) -> Tensor:
        return arithmetic.remainder(x, self)

    def __rpow__(self, x: Operand) -> Tensor:
        return arithmetic.pow(x, self)

    def __rlshift__(self, x: Operand) -> Tensor:
        return arithmetic.shift_left(x, self)

    def __rrshift__(self, x: Operand) -> Tensor:
        return arithmetic.shift_right(x, self)

    # A comparison gives a Tensor, so there is no hash. Compared with what is no operand, a Tensor is unequal.
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, y: object) -> Tensor:  # type: ignore[override]
        return arithmetic.eq(self, y) if _is_operand(y) else NotImplemented

    def __ne__(self, y: object) -> Tensor:  # type: ignore[override]
        return arithmetic.ne(self, y) if _is_operand(y) else NotImplemented

    def __bool__(self) -> bool:
        return bool(self.value)


def _is_operand(y: object) -> TypeGuard[Operand]:
    return isinstance(y, Tensor | bool | int | float | complex | np.generic)


def _flatten(x: Tensor) -> tuple[tuple[Any], _Static]:
    return (x._value,), (x._tags, x._partitions)


def _flatten_with_keys(x: Tensor) -> tuple[tuple[tuple[Any, Any]], _Static]:
    return ((jax.tree_util.GetAttrKey("value"), x._value),), (x._tags, x._partitions)


def _rebuild(static: _Static, children: Iterable[Any]) -> Tensor:
    """A Tensor around any object: JAX rebuilds pytrees around None, axis numbers, specs and the like."""
    (value,) = children
    tags, partitions = static
    # Inside jax.vmap a value has lost one axis, and its tracer knows which.
    mapped = getattr(value, "batch_dim", None) if isinstance(value, jax.core.Tracer) else None
    if isinstance(mapped, int) and len(value.shape) == len(tags) - 1:
        tags = tags[:mapped] + tags[mapped + 1 :]
        partitions = partitions[:mapped] + partitions[mapped + 1 :]
    x = object.__new__(Tensor)
    x._value, x._tags, x._partitions, x._shape = value, tags, partitions, None
    return x


jax.tree_util.register_pytree_with_keys(Tensor, _flatten_with_keys, _rebuild, _flatten)
