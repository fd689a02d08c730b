"""What a function says to the compiler while it is traced: the memory of its results, and how values are cut."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax

from zml.errors import ShapeError
from zml.ops import _args
from zml.shape import OPEN, Shape

if TYPE_CHECKING:
    from zml.tensor import Tensor

MEMORIES = ("device", "pinned_host", "unpinned_host")


@dataclass
class Marks:
    """What was said while one function was traced. Values are known by identity; they are kept so that it lasts."""

    arguments: dict[int, int]
    """id of an argument's tracer -> its number among the flattened arguments"""
    reused: dict[int, int] = field(default_factory=dict)
    """id of a result's tracer -> number of the argument whose memory it takes"""
    memories: dict[int, str] = field(default_factory=dict)
    """id of a result's tracer -> kind of memory"""
    kept: list[Any] = field(default_factory=list)
    constrain: Callable[[Shape], Any] = lambda shape: None
    """The jax sharding by which a value of a shape is cut inside the program; None: it is whole anyway."""
    sharding: Callable[[Shape], Any] = lambda shape: None
    """The zml Sharding by which a value of a shape is cut; None: there is one device."""
    kernels: bool = False
    """Whether the platform has native kernels, which operations may call instead of leaving all to XLA."""
    functions: dict[Any, Any] = field(default_factory=dict)
    """What ops.call has traced."""


marks: ContextVar[Marks | None] = ContextVar("zml.ops.memory", default=None)
"""Set by zml.compile while it traces."""


def reuse_buffer(x: Tensor, argument: Tensor, /) -> Tensor:
    """x, a result of the compiled function, in the memory of an argument: `return cache.reuse_buffer(old_cache)`.

    The argument is donated: its buffer cannot be used after a call. The two must have the same shape, partitioning and
    memory kind. Said to the outermost function, which platform.compile is given; it has no effect under jax.jit alone.
    """
    x, argument = _args.tensor("reuse_buffer", x), _args.tensor("reuse_buffer", argument)
    scope = marks.get()
    if scope is None:
        return x
    number = scope.arguments.get(id(argument.value))
    if number is None:
        raise _args.error(
            "reuse_buffer",
            "the second tensor is no argument of the compiled function",
            x,
            argument,
            mend="give an argument as it came in, and say it in the function that is given to platform.compile",
        )
    if x.dtype != argument.dtype or not x.shape.matches(argument.shape):
        raise _args.error(
            "reuse_buffer",
            "a result fits only in a buffer of its shape",
            x,
            argument,
            mend="make them equal",
        )
    scope.reused[id(x.value)] = number
    scope.kept.append(x.value)
    return x


def in_memory(x: Tensor, kind: str, /) -> Tensor:
    """x in memory of that kind: device, pinned_host or unpinned_host.

    A declared input will be there. In a function that is compiled the value is moved: an input in host memory must be
    in the device's before it is computed with, and a result can be left on the host. No effect under jax.jit alone.
    """
    x = _args.tensor("in_memory", x)
    if kind not in MEMORIES:
        raise ShapeError(
            f"in_memory: {kind!r} is no kind of memory; expected one of {', '.join(MEMORIES)}"
        )
    if x.is_declared:
        return x.declared_in(kind)
    scope = marks.get()
    if scope is None:
        return x
    space = jax.memory.Space.Device if kind == "device" else jax.memory.Space.Host
    moved = x.with_value(jax.device_put(x.value, space))
    if kind != "device":
        scope.memories[id(moved.value)] = kind
        scope.kept.append(moved.value)
    return moved


def constrained(x: Tensor) -> Tensor:
    """x, cut inside the program as its partitioning says; the compiler chooses for open axes."""
    scope = marks.get()
    if scope is None or all(cut is OPEN for cut in x.shape.partitions):
        return x
    sharding = scope.constrain(x.shape)
    return (
        x if sharding is None else x.with_value(jax.lax.with_sharding_constraint(x.value, sharding))
    )


def call[**P, R](f: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """f(*args), as a function of the program that it calls: traced once for arguments of the same shapes.

    For a model's layers: tracing and lowering take as long as for one. f must be the same object each time, and its
    arguments pytrees of tensors.
    """
    scope = marks.get()
    if scope is None:
        return f(*args, **kwargs)
    for leaf in jax.tree.leaves((args, kwargs), is_leaf=_args.is_tensor):
        if not _args.is_tensor(leaf):
            raise ShapeError(
                f"call: an argument of {getattr(f, '__qualname__', f)} has a {type(leaf).__name__} ({leaf!r:.40}), "
                "expected pytrees of Tensors; make it a static field of a model, or part of f"
            )
    # The jit is made anew for each program: what it has traced is cut by this program's shardings.
    if f not in scope.functions:

        def function(args: Any, kwargs: Any) -> R:
            return f(*args, **kwargs)

        function.__name__ = getattr(f, "__qualname__", "function").replace("<", "").replace(">", "")
        scope.functions[f] = jax.jit(function)
    result: R = scope.functions[f](args, kwargs)
    return result
