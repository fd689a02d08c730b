"""A declared input: what a Tensor holds before there is a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from zml.errors import ShapeError


@dataclass(frozen=True)
class Repeat:
    """Each part of a stored axis several times over: `Repeat("h", 2)` makes heads 0, 1 into 0, 0, 1, 1.

    `tag` names an axis of the declared tensor, whose dim counts the repeats.
    """

    tag: str
    times: int

    def once(self, name: str, dims: Mapping[str, int]) -> dict[str, int]:
        """The dims before the repeats. Raises ShapeError, which says `name`, unless the axis is there and divides."""
        if self.times < 1 or self.tag not in dims or dims[self.tag] % self.times:
            raise ShapeError(
                f"{name}: {self} does not fit {dict(dims)}; expected an axis {self.tag!r} there, with a multiple of "
                f"{self.times} elements"
            )
        return {**dims, self.tag: dims[self.tag] // self.times}


@dataclass(frozen=True)
class Quantized:
    """How a stored matrix [rows, columns] is quantized as it is loaded."""

    format: str
    """One of zml.kernels.cpu.formats."""
    times: int = 1
    """Each run of `span` stored rows comes so many times over."""
    span: int = 1


@dataclass(frozen=True)
class Source:
    """Where a declared tensor's elements are in a checkpoint.

    `dims` is the shape there. The elements are in the same order here, major to minor, whatever the declared shape is,
    but for the repeats. With `quantized` the tensor is one of the arrays that the stored elements are quantized to:
    `part` says which, "values" or "scales".
    """

    name: str
    dims: tuple[int, ...]
    repeat: Repeat | None = None
    quantized: Quantized | None = None
    part: str = ""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one or several tensors are made of stored ones: by a function that is compiled for the devices."""

    name: str
    """What messages call what is made."""
    function: Callable[..., Any]
    """From Tensors to a Tensor, or a pytree of them."""
    arguments: tuple[Any, ...]
    """The declared Tensors that it is given, each with a source."""


@dataclass(frozen=True)
class Derived:
    """Where a declared tensor comes from if a recipe makes it: `part` is its number among the recipe's results."""

    recipe: Recipe
    part: int = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.recipe.name


class Declared(jax.ShapeDtypeStruct):
    """Shape and dtype for JAX, with what zml keeps of an input: its source, and the memory it will be in."""

    __slots__ = ("memory", "source")

    def __init__(
        self,
        dims: tuple[int, ...],
        dtype: Any,
        source: Source | Derived | None = None,
        memory: str | None = None,
    ) -> None:
        super().__init__(dims, dtype)  # type: ignore[no-untyped-call]
        self.source = source
        self.memory = memory
