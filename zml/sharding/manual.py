"""Manual computation: code that runs on each device's shard and says itself when devices talk."""

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
from jax import lax

from zml.errors import ShardingError
from zml.shape import AxisPartition, Shape
from zml.sharding.sharding import Sharding

type LogicalAxes = str | Sequence[str]
"""One logical axis, or several: their shards are counted with the first as the slowest."""

type Dim = int | str
"""An axis by position, or, if the values are Tensors, by tag."""


@runtime_checkable
class _Tagged(Protocol):
    """A value that finds its axes by tag: a zml.Tensor, from which this room is kept apart."""

    tags: tuple[str, ...]

    def axis(self, tag: str) -> int: ...

    def partitioned(self, **partitions: AxisPartition) -> Any: ...


@dataclass(frozen=True)
class _Scope:
    """What the collectives inside a manual computation need to know."""

    sharding: Sharding
    axes: frozenset[str]
    """The logical axes that cut. One that shares its physical axes with another that is used cuts nothing."""

    @staticmethod
    def of(sharding: Sharding, shapes: Iterable[Shape]) -> "_Scope":
        used = {cut for shape in shapes for cut in shape.partitions if isinstance(cut, str)}
        owners: dict[str | None, str] = {}
        for name in sorted(sharding.logical.names, key=lambda name: name not in used):
            owners.setdefault(sharding.mesh_axis(name), name)
        return _Scope(sharding, frozenset(owners.values()))


_scope: ContextVar[_Scope | None] = ContextVar("manual computation", default=None)


def manual_computation(
    body: Callable[..., Any],
    sharding: Sharding,
    inputs: Sequence[Any],
    outputs: Any,
    *,
    check: bool = True,
) -> Callable[..., Any]:
    """A function of whole arrays that runs `body` on the shards of each device.

    `inputs` has a Shape for each argument, `outputs` one for the result; either may hold pytrees of Shapes, and a
    Shape may stand for a whole subtree. Their partitioning says what `body` sees: an axis closed on a logical axis is
    cut, every other axis is whole. Within `body` the collectives of this module name logical axes. With `check`, a
    result that differs between devices which should have copies of it is refused while tracing; turn it off for what
    that proof cannot follow. A Tensor that comes out is partitioned as its shape in `outputs` is.

    Source: jax.shard_map. Raises ShardingError for shapes that do not fit the sharding or the arguments.
    """
    shapes = [x for x in jax.tree.leaves((inputs, outputs), is_leaf=_is_shape) if _is_shape(x)]
    scope = _Scope.of(sharding, shapes)

    def spec(shape: Shape) -> Any:
        return sharding.spec(shape, among=scope.axes)

    def scoped(*shards: Any) -> Any:
        token = _scope.set(scope)
        try:
            return body(*shards)
        finally:
            _scope.reset(token)

    mapped: Callable[..., Any] = jax.shard_map(
        scoped,
        mesh=sharding.mesh,
        in_specs=jax.tree.map(spec, tuple(inputs), is_leaf=_is_shape),
        out_specs=jax.tree.map(spec, outputs, is_leaf=_is_shape),
        check_vma=check,
    )

    def whole(*arrays: Any) -> Any:
        if len(arrays) != len(inputs):
            raise ShardingError(
                f"manual computation: {len(arrays)} arguments for {len(inputs)} input shapes; give one each"
            )
        _check_shapes("argument", tuple(inputs), arrays)
        result = mapped(*arrays)
        _check_shapes("result", outputs, result)
        return jax.tree.map(_cut_as, outputs, result, is_leaf=_is_shape)

    return whole


def _cut_as(shape: Shape, values: Any) -> Any:
    """The values, where Tensors say that they are cut as the shape of the result does."""
    cuts = dict(zip(shape.tags, shape.partitions, strict=True))

    def one(value: Any) -> Any:
        if not isinstance(value, _Tagged):
            return value
        return value.partitioned(**{tag: cut for tag, cut in cuts.items() if tag in value.tags})

    return jax.tree.map(one, values, is_leaf=lambda value: isinstance(value, _Tagged))


def _is_shape(value: Any) -> bool:
    return isinstance(value, Shape)


def _check_shapes(role: str, shapes: Any, values: Any) -> None:
    def check(path: Any, shape: Shape, value: Any) -> None:
        for leaf in jax.tree.leaves(value):
            if tuple(leaf.shape) != shape.dims:
                raise ShardingError(
                    f"manual computation: {role}{jax.tree_util.keystr(path)} is {tuple(leaf.shape)} over all shards, "
                    f"but its shape was given as {shape}; the two must agree"
                )

    jax.tree_util.tree_map_with_path(check, shapes, values, is_leaf=_is_shape)


def _mesh_axes(axes: LogicalAxes) -> tuple[str, ...]:
    """The axes of the jax Mesh behind logical ones, without those that cut nothing."""
    scope = _scope.get()
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    if scope is None:
        raise ShardingError(
            f"a collective over {', '.join(names)} outside of a manual computation; logical axes are known only in the "
            "body given to manual_computation"
        )
    if len(set(names)) < len(names):
        raise ShardingError(f"a collective names a logical axis twice: {', '.join(names)}")
    found = [scope.sharding.mesh_axis(name) for name in names]
    pairs = zip(names, found, strict=True)
    return tuple(axis for name, axis in pairs if axis is not None and name in scope.axes)


def axis_size(axes: LogicalAxes) -> int:
    """How many shards there are along logical axes."""
    names = _mesh_axes(axes)
    return lax.axis_size(names) if names else 1


def axis_index(axes: LogicalAxes) -> jax.Array | int:
    """Which of those shards this one is."""
    names = _mesh_axes(axes)
    return lax.axis_index(names) if names else 0


def all_reduce(x: Any, axes: LogicalAxes, op: Literal["sum", "max", "min", "mean"] = "sum") -> Any:
    """Combines the shards along logical axes, element by element; all get the result. `x` is a pytree of arrays."""
    names = _mesh_axes(axes)
    combine: dict[str, Callable[..., Any]] = {
        "sum": lax.psum,
        "max": lax.pmax,
        "min": lax.pmin,
        "mean": lax.pmean,
    }
    if op not in combine:
        raise ShardingError(f"all_reduce by {op!r}; expected one of {', '.join(combine)}")
    return jax.tree.map(lambda leaf: combine[op](leaf, names), x) if names else x


def all_gather(x: Any, axes: LogicalAxes, dim: Dim) -> Any:
    """Joins the shards along logical axes, one after the other on `dim`; all get the result."""
    names = _mesh_axes(axes)

    def gather(leaf: jax.Array, at: int) -> jax.Array:
        return lax.all_gather(leaf, names, axis=at, tiled=True, to="invarying")

    return _each(x, gather, dim) if names else x


def reduce_scatter(x: Any, axes: LogicalAxes, dim: Dim) -> Any:
    """Sums the shards along logical axes; each gets its own part of `dim`, which must divide by their number."""
    names = _mesh_axes(axes)

    def scatter(leaf: jax.Array, at: int) -> jax.Array:
        _check_divides("reduce_scatter", leaf, axes, at)
        return lax.psum_scatter(leaf, names, scatter_dimension=at, tiled=True)

    return _each(x, scatter, dim) if names else x


def all_to_all(x: Any, axes: LogicalAxes, split: Dim, concat: Dim) -> Any:
    """Cuts `split` in as many parts as there are shards, sends part i to shard i, joins what comes on `concat`."""
    names = _mesh_axes(axes)

    def exchange(leaf: jax.Array, at: int, to: int) -> jax.Array:
        _check_divides("all_to_all", leaf, axes, at)
        return lax.all_to_all(leaf, names, split_axis=at, concat_axis=to, tiled=True)

    return _each(x, exchange, split, concat) if names else x


def ppermute(x: Any, axes: LogicalAxes, pairs: Sequence[tuple[int, int]]) -> Any:
    """Sends each shard to another: `pairs` of (from, to) by axis_index. A shard that nothing is sent to gets zeros."""
    names, size = _mesh_axes(axes), axis_size(axes)
    for role, ends in (("sources", [a for a, _ in pairs]), ("targets", [b for _, b in pairs])):
        if len(set(ends)) < len(ends) or not all(0 <= end < size for end in ends):
            raise ShardingError(
                f"ppermute over {axes}: {role} {ends}; expected each at most once, from 0 to {size - 1}"
            )
    if names:
        return _each(x, lambda leaf: lax.ppermute(leaf, names, list(pairs)))
    return x if pairs else jax.tree.map(jax.numpy.zeros_like, x)


def _each(x: Any, collective: Callable[..., jax.Array], *dims: Dim) -> Any:
    """Applies a collective to each array of a pytree, with the positions of the dims in it."""

    def one(value: Any) -> Any:
        if not isinstance(value, _Tagged) and (tags := [d for d in dims if isinstance(d, str)]):
            raise ShardingError(
                f"a collective names the tag {tags[0]!r}, but an array has no tags; give the axis by position"
            )
        at = [value.axis(dim) if isinstance(dim, str) else dim for dim in dims]
        return jax.tree.map(lambda leaf: collective(leaf, *at), value)

    return jax.tree.map(one, x, is_leaf=lambda value: isinstance(value, _Tagged))


def _check_divides(what: str, leaf: jax.Array, axes: LogicalAxes, dim: int) -> None:
    size = axis_size(axes)
    if leaf.shape[dim] % size:
        raise ShardingError(
            f"{what} over {axes}: axis {dim} of a shard {tuple(leaf.shape)} does not divide by {size} shards; "
            "pad it, or use another axis"
        )
