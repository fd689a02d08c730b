"""Control flow inside a program, and transformations that know tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from zml.errors import ShapeError
from zml.ops import _args

if TYPE_CHECKING:
    from zml.tensor import Tensor


def while_[C](condition: Callable[[C], Tensor], body: Callable[[C], C], start: C) -> C:
    """Runs `body` on a pytree of tensors as long as the condition (a bool of rank 0) holds."""

    def test(carry: C) -> jax.Array:
        return _truth("while_", condition(carry))

    def step(carry: C) -> C:
        return _like("while_: the body's result", carry, body(carry))

    return lax.while_loop(test, step, start)


def cond[*A, R](
    condition: Tensor, if_true: Callable[[*A], R], if_false: Callable[[*A], R], /, *operands: *A
) -> R:
    """`if_true(*operands)` or `if_false(*operands)`, of which one runs; their results have the same shapes."""
    expected: list[R] = []

    def first(*values: *A) -> R:
        result = if_true(*values)
        expected[:] = [jax.tree.map(_abstract, result, is_leaf=_args.is_tensor)]
        return result

    def other(*values: *A) -> R:
        # JAX traces the other branch first, so what it gives is known; it traces each of them once.
        return _like("cond: the result of if_false", expected[0], if_false(*values))

    return lax.cond(_truth("cond", condition), first, other, *operands)


def scan[C, X, Y](
    f: Callable[[C, X], tuple[C, Y]], start: C, xs: X, tag: str, /, *, reverse: bool = False
) -> tuple[C, Y]:
    """Carries a value along the axis `tag`: f takes it and xs without that axis, and gives the next one and a result.

    Gives the last carry, and the results stacked along `tag`, their first axis.
    """
    tensors = jax.tree.leaves(xs, is_leaf=_args.is_tensor)
    if not tensors or any(_args.tensor("scan", x).dim(tag) != tensors[0].dim(tag) for x in tensors):
        raise _args.error(
            "scan",
            f"there must be tensors, of one dim along {tag!r}",
            *tensors,
            mend="make them equal",
        )
    slices, treedef = jax.tree.flatten(xs, is_leaf=_args.is_tensor)
    rows = [x.transpose(tag, ...).value for x in slices]

    def step(carry: C, values: list[jax.Array]) -> tuple[C, Y]:
        inner = [
            x.derive(value, [t for t in x.tags if t != tag])
            for x, value in zip(slices, values, strict=True)
        ]
        after, result = f(carry, jax.tree.unflatten(treedef, inner))
        return _like("scan: the next carry", carry, after), result

    carry, results = lax.scan(step, start, rows, reverse=reverse)
    return carry, _with_first_axis(results, tag)


def reduce(
    x: Tensor, start: Tensor, f: Callable[[Tensor, Tensor], Tensor], /, *tags: str
) -> Tensor:
    """Folds axes with any associative function of two tensors of rank 0, from `start`, its neutral element."""
    positions = _args.axes("reduce", x, tags)
    if start.rank or start.dtype != x.dtype:
        raise _args.error(
            "reduce", "the start is no element", x, start, mend=f"give rank 0 and type {x.dtype}"
        )

    def fold(left: Any, right: Any) -> Any:
        return _like(
            "reduce: the result of f", start, f(_args.make(left, ()), _args.make(right, ()))
        ).value

    value = lax.reduce(x.value, start.value, fold, positions)
    return x.derive(value, [tag for tag in x.tags if tag not in tags])


def vmap[**P, R](f: Callable[P, R], tag: str, /) -> Callable[P, R]:
    """f on each place of the axis `tag`: f sees the tensors without it; in the results it is the first axis.

    Arguments are pytrees of tensors; one without the axis is the same at each place.
    """

    def mapped(*args: P.args, **kwargs: P.kwargs) -> R:
        leaves, treedef = jax.tree.flatten((args, kwargs), is_leaf=_args.is_tensor)
        if not any(_args.is_tensor(x) and tag in x.tags for x in leaves):
            raise _args.error(
                "vmap", f"no argument has the axis {tag!r}", mend="name one that is there"
            )
        has = [_args.is_tensor(x) and tag in x.tags for x in leaves]
        values = [x.value if own else x for x, own in zip(leaves, has, strict=True)]
        in_axes = [x.axis(tag) if own else None for x, own in zip(leaves, has, strict=True)]

        def inner(given: list[Any]) -> R:
            tensors = [
                x.derive(value, [t for t in x.tags if t != tag]) if own else value
                for x, value, own in zip(leaves, given, has, strict=True)
            ]
            inner_args, inner_kwargs = jax.tree.unflatten(treedef, tensors)
            return f(*inner_args, **inner_kwargs)

        return _with_first_axis(jax.vmap(inner, in_axes=(in_axes,))(values), tag)

    return mapped


def value_and_grad[**P](
    f: Callable[P, Tensor], argnums: int = 0
) -> Callable[P, tuple[Tensor, Any]]:
    """f, which gives a tensor of rank 0, with its gradient with respect to an argument: a pytree like that argument."""

    def scalar(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        loss = _args.tensor("grad", f(*args, **kwargs))
        if loss.rank or loss.dtype.kind != "float":
            raise _args.error(
                "grad", "the result of the function is no float of rank 0", loss, mend="sum it up"
            )
        return loss.value

    differentiated = jax.value_and_grad(scalar, argnums)

    def both(*args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, Any]:
        value, gradient = differentiated(*args, **kwargs)
        return _args.make(value, ()), gradient

    return both


def grad[**P](f: Callable[P, Tensor], argnums: int = 0) -> Callable[P, Any]:
    """The gradient of value_and_grad alone."""
    both = value_and_grad(f, argnums)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def optimization_barrier[T](tree: T) -> T:
    """The same pytree; the compiler moves no computation across it."""
    return cast(T, lax.optimization_barrier(tree))


def _truth(op: str, condition: Any) -> jax.Array:
    if isinstance(condition, bool):
        return jnp.asarray(condition)
    x = _args.tensor(op, condition)
    if x.rank or x.dtype != "bool":
        raise _args.error(
            op, "the condition is no bool of rank 0", x, mend="compare, or use any() or all()"
        )
    return x.value


def _abstract(x: Any) -> Any:
    """A tensor without its value, which must not leave the branch that it was traced in."""
    if not _args.is_tensor(x):
        return x
    value: Any = jax.ShapeDtypeStruct(x.value.shape, x.value.dtype)
    return x.with_value(value)


def _with_first_axis[T](tree: T, tag: str) -> T:
    """Names the axis that a JAX transformation has put first."""

    def name(x: object) -> object:
        return x.with_first_axis(tag) if _args.is_tensor(x) else x

    return cast(T, jax.tree.map(name, tree, is_leaf=_args.is_tensor))


def _like[T](what: str, expected: T, given: T) -> T:
    """The given pytree with the partitioning of the expected one, if tags, dims and types are the same."""
    structure: Any
    before, structure = jax.tree.flatten(expected, is_leaf=_args.is_tensor)
    after, found = jax.tree.flatten(given, is_leaf=_args.is_tensor)
    if structure != found:
        raise ShapeError(f"{what} has the structure {found}, expected {structure}")
    result = []
    for old, new in zip(before, after, strict=True):
        if not _args.is_tensor(old) or not _args.is_tensor(new):
            result.append(new)
            continue
        if new.dtype != old.dtype or not new.shape.matches(old.shape):
            raise ShapeError(
                f"{what} has a tensor {new.shape} where {old.shape} is expected; make them equal"
            )
        result.append(old.with_value(new.value))
    return jax.tree.unflatten(structure, result)
