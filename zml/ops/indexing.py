"""Reading and writing parts of a tensor, at places known when the program is written or found when it runs."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
from jax import lax

from zml.ops import _args

if TYPE_CHECKING:
    import jax

    from zml.tensor import Tensor


def slice(x: Tensor, /, **ranges: builtins.slice | tuple[int | None, ...]) -> Tensor:
    """A range of each named axis, (start, stop) or (start, stop, step): `x.slice(s=(1, 4), d=(None, -2))`.

    Negative places count from the end. A place that is out of range is an error, unlike in Python.
    """
    bounds = {tag: (0, dim, 1) for tag, dim in x.shape.items()}
    for position, (tag, given) in zip(_args.axes("slice", x, ranges), ranges.items(), strict=True):
        cut = given if isinstance(given, builtins.slice) else builtins.slice(*given)
        dim, step = x.shape.dims[position], 1 if cut.step is None else cut.step
        places = [place for place in (cut.start, cut.stop) if place is not None]
        start, stop, _ = cut.indices(dim) if step > 0 else (1, 0, 0)
        if start > stop or any(not -dim <= place <= dim for place in places):
            raise _args.error(
                "slice", f"{tag}={given} is not a range of {dim} elements", x,
                mend="give start <= stop within the axis and a step of 1 or more; reverse() goes backwards",
            )  # fmt: skip
        bounds[tag] = (start, stop, step)
    starts, stops, steps = zip(*bounds.values(), strict=True) if bounds else ((), (), ())
    return x.derive(lax.slice(x.value, starts, stops, steps))


def choose(x: Tensor, /, **places: int) -> Tensor:
    """One place of each named axis, which goes: `x.choose(s=-1)`. Negative places count from the end."""
    for tag, place in places.items():
        dim = x.shape.dims[_args.axis("choose", x, tag)]
        if not -dim <= place < dim:
            raise _args.error(
                "choose", f"{tag}={place} is not one of {dim} places", x, mend="choose one of them"
            )
        place %= dim
        x = x.slice(**{tag: (place, place + 1)}).squeeze(tag)
    return x


def dynamic_slice(x: Tensor, /, **ranges: tuple[Tensor | int, int]) -> Tensor:
    """(start, size) of each named axis, with a start of rank 0 that the program computes.

    The start is moved so that the range lies within the axis, as in XLA.
    """
    sizes = list(x.shape.dims)
    for position, (tag, (_, size)) in zip(
        _args.axes("dynamic_slice", x, ranges), ranges.items(), strict=True
    ):
        if not 0 <= size <= sizes[position]:
            raise _args.error(
                "dynamic_slice", f"{tag} has no {size} elements", x, mend="take as many or fewer"
            )
        sizes[position] = size
    starts = _starts("dynamic_slice", x, {tag: start for tag, (start, _) in ranges.items()})
    return x.derive(lax.dynamic_slice(x.value, starts, sizes, allow_negative_indices=False))


def dynamic_update_slice(x: Tensor, update: Tensor, /, **starts: Tensor | int) -> Tensor:
    """x with the elements of update written from the starts on; they begin at 0 on the axes that are not named.

    Update has the axes of x, each as long or shorter. A start is moved so that update lies within x, as in XLA.
    """
    op = "dynamic_update_slice"
    update = _args.tensor(op, update)
    _args.axes(op, x, starts)
    fits = update.tags == x.tags and all(
        small <= large for small, large in zip(update.shape.dims, x.shape.dims, strict=True)
    )
    if not fits or update.dtype != x.dtype:
        raise _args.error(
            op, "the update does not fit", x, update, mend="it needs the same tags in the same order, the same "
            "element type and dims that are not greater",
        )  # fmt: skip
    value = lax.dynamic_update_slice(
        x.value, update.value, _starts(op, x, starts), allow_negative_indices=False
    )
    return x.derive(value)


def _starts(op: str, x: Tensor, starts: dict[str, Tensor | int]) -> list[jax.Array | int]:
    values: list[jax.Array | int] = []
    for tag, dim in x.shape.items():
        start = starts.get(tag, 0)
        if isinstance(start, int):
            if not 0 <= start <= dim:
                raise _args.error(
                    op, f"{tag}={start} is no place to start", x, mend=f"give 0 to {dim}"
                )
            values.append(start)
            continue
        start = _args.tensor(op, start)
        if start.rank or start.dtype.kind != "int":
            raise _args.error(
                op, f"the start of {tag!r} is no integer of rank 0", start, mend="give one number"
            )
        values.append(start.value.astype("int32") if start.dtype.bits < 32 else start.value)
    return _one_type(values)


def _one_type(values: list[jax.Array | int]) -> list[jax.Array | int]:
    """XLA wants all starts in one type."""
    types = {value.dtype for value in values if not isinstance(value, int)}
    wide = jnp.result_type(*types) if types else jnp.dtype("int32")
    return [jnp.asarray(value, wide) for value in values]


def gather(x: Tensor, /, **indices: Tensor) -> Tensor:
    """The elements at the indices along the named axes: `table.gather(voc=tokens)`.

    Index tensors are integers of one shape, whose axes come in place of the first named axis. An axis that x and the
    indices both have is a batch axis, and stays where x has it. An index that is out of range is moved to the
    nearest end.
    """
    places = _Places("gather", x, indices)
    dims = x.shape.dims
    numbers = lax.GatherDimensionNumbers(
        offset_dims=tuple(range(places.index_rank, places.index_rank + len(places.window))),
        collapsed_slice_dims=places.sorted_axes,
        start_index_map=places.axes,
        operand_batching_dims=places.batch,
        start_indices_batching_dims=places.index_batch,
    )
    sizes = [1 if i in (*places.axes, *places.batch) else dims[i] for i in range(x.rank)]
    value = lax.gather(x.value, places.indices, numbers, sizes, mode=lax.GatherScatterMode.CLIP)
    return x.derive(lax.transpose(value, places.order), places.tags)


def scatter(
    x: Tensor,
    updates: Tensor,
    /,
    mode: Literal["set", "add", "mul", "min", "max"] = "set",
    **indices: Tensor,
) -> Tensor:
    """x with the updates written, added, ... at the indices along the named axes: `x.scatter(new, s=positions)`.

    Updates have the axes, in any order, of what gather would read. One whose index is out of range is dropped. Which of
    two updates of one place is left by "set" is not defined.
    """
    places = _Places("scatter", x, indices)
    updates = _args.tensor("scatter", updates)
    wanted = x.shape.derive(places.dims)
    if sorted(updates.shape.items()) != sorted(places.dims.items()) or updates.dtype != x.dtype:
        raise _args.error(
            "scatter", "the updates do not fit", updates, mend=f"expected the shape {wanted}"
        )
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(places.index_rank, places.index_rank + len(places.window))),
        inserted_window_dims=places.sorted_axes,
        scatter_dims_to_operand_dims=places.axes,
        operand_batching_dims=places.batch,
        scatter_indices_batching_dims=places.index_batch,
    )
    write = {
        "set": lax.scatter,
        "add": lax.scatter_add,
        "mul": lax.scatter_mul,
        "min": lax.scatter_min,
        "max": lax.scatter_max,
    }[mode]
    natural = lax.transpose(updates.value, _args.axes("scatter", updates, places.natural))
    value = write(
        x.value, places.indices, natural, numbers, mode=lax.GatherScatterMode.FILL_OR_DROP
    )
    return x.derive(value)


class _Places:
    """How gather and scatter lay out their axes."""

    def __init__(self, op: str, x: Tensor, indices: dict[str, Tensor]) -> None:
        if not indices:
            raise _args.error(op, "no axis is named", x, mend="give the indices of one: d=indices")
        tensors = [_args.tensor(op, index) for index in indices.values()]
        first = tensors[0]
        _args.same(op, *tensors)
        _args.require(op, first, "int")
        self.axes = _args.axes(op, x, indices)
        shared = [tag for tag in first.tags if tag in x.tags and tag not in indices]
        if any(x.dim(tag) != first.dim(tag) for tag in shared):
            raise _args.error(
                op,
                f"the batch axes {shared} differ in size",
                x,
                first,
                mend="rename the axes of the indices",
            )
        if any(x.shape.dims[axis] == 0 for axis in self.axes) and first.count:
            raise _args.error(
                op, "an empty axis is indexed", x, first, mend="there is no element to take"
            )
        self.sorted_axes = tuple(sorted(self.axes))
        self.batch = _args.axes(op, x, shared)
        self.index_batch = _args.axes(op, first, shared)
        self.index_rank = first.rank
        wide = "int32" if first.dtype.bits < 32 else first.dtype.numpy
        self.indices = jnp.stack([tensor.value.astype(wide) for tensor in tensors], -1)
        self.window = [tag for tag in x.tags if tag not in indices and tag not in shared]
        # XLA's order is the index axes, then the window; the result has them where x has the axes they stand for.
        self.natural = [*first.tags, *self.window]
        tags: list[str] = []
        for tag, position in zip(x.tags, range(x.rank), strict=True):
            if position == self.sorted_axes[0]:
                tags += [own for own in first.tags if own not in shared]
            if tag not in indices:
                tags.append(tag)
        self.tags = tags
        sizes = dict(x.shape.items()) | dict(first.shape.items())
        self.dims = {tag: sizes[tag] for tag in tags}
        self.order = [self.natural.index(tag) for tag in tags]
