"""What a compiled function says of the memory of its results: which argument's they reuse, and of what kind it is."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zml.errors import ShapeError
from zml.ops import _args

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
            "reuse_buffer", "a result fits only in a buffer of its shape", x, argument, mend="make them equal"
        )
    scope.reused[id(x.value)] = number
    scope.kept.append(x.value)
    return x


def in_memory(x: Tensor, kind: str, /) -> Tensor:
    """x, an input or a result of a compiled function, in memory of that kind: device, pinned_host or unpinned_host."""
    x = _args.tensor("in_memory", x)
    if kind not in MEMORIES:
        raise ShapeError(f"in_memory: {kind!r} is no kind of memory; expected one of {', '.join(MEMORIES)}")
    if x.is_declared:
        return x.declared_in(kind)
    scope = marks.get()
    if scope is not None:
        scope.memories[id(x.value)] = kind
        scope.kept.append(x.value)
    return x
