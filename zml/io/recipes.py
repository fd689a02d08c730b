"""Recipes: what makes tensors of stored ones, how one is declared, told from another and computed."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from zml.declared import Derived, Recipe, Source
from zml.errors import CompileError, ShapeError, ZmlError
from zml.model_tree import is_leaf
from zml.shape import OPEN, Shape
from zml.tensor import Tensor


def sources_of(tensor: Tensor) -> list[Tensor]:
    """The stored tensors that a declared one is made of; itself if it is stored."""
    source = tensor.source
    if not isinstance(source, Derived):
        return [tensor]
    return [stored for argument in source.recipe.arguments for stored in sources_of(argument)]


def stored_sources(tensor: Tensor) -> list[tuple[Tensor, Source]]:
    """The same with where each is."""
    found = [(stored, stored.source) for stored in sources_of(tensor)]
    return [(stored, source) for stored, source in found if isinstance(source, Source)]


def derive(name: str, function: Callable[..., Any], arguments: Sequence[Tensor]) -> Any:
    """Declares what `function` makes of declared tensors: a Tensor, or a pytree of them. See View.derived."""
    for number, argument in enumerate(arguments):
        if not isinstance(argument, Tensor) or argument.source is None:
            raise ShapeError(
                f"tensor {name!r}: argument {number} is {argument!r:.120}, expected a declared Tensor of a checkpoint: "
                "declare it with View.tensor"
            )
        if isinstance(argument.source, Source) and argument.source.quantized is not None:
            raise ShapeError(
                f"tensor {name!r}: argument {number} ({argument.source.name}) is quantized as it is loaded, into "
                "blocks that no function takes; give it as View.tensor declares it"
            )
    recipe = Recipe(name, function, tuple(arguments))

    def checked(*given: Tensor) -> Any:
        results = function(*given)
        for leaf in jax.tree.leaves(results, is_leaf=is_leaf):
            if not isinstance(leaf, Tensor):
                raise ShapeError(
                    f"the result is a {type(leaf).__name__}, expected a Tensor or a tree of them"
                )
        return results

    try:
        results = jax.eval_shape(checked, *arguments)
    except Exception as error:
        raise failed(recipe, error) from error
    leaves, tree = jax.tree.flatten(results, is_leaf=is_leaf)
    declared = [
        Tensor.declare(leaf.shape, source=Derived(recipe, part)) for part, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, declared)


@dataclass(frozen=True)
class Stored:
    """A stored tensor as a key: what is read, and as what."""

    source: Source
    shape: Shape
    memory: str | None

    @property
    def tensor(self) -> Tensor:
        """The declared tensor."""
        return Tensor.declare(self.shape, memory=self.memory, source=self.source)


def sources_once(recipe: Recipe) -> list[Stored]:
    """The sources of a recipe, each once, in the order in which they are met."""
    found: dict[Stored, None] = {}
    for argument in recipe.arguments:
        for tensor in sources_of(argument):
            found[stored_key(tensor)] = None
    return list(found)


def stored_key(tensor: Tensor) -> Stored:
    """The key of a stored tensor."""
    assert isinstance(tensor.source, Source)
    return Stored(tensor.source, tensor.shape, tensor.memory)


def identity(recipe: Recipe) -> Hashable:
    """The same for recipes that compute the same of their sources' shapes; names do not count."""
    numbers = {stored: number for number, stored in enumerate(sources_once(recipe))}

    def of(tensor: Tensor) -> Hashable:
        source = tensor.source
        if isinstance(source, Derived):
            inner = source.recipe
            return (function_identity(inner.function), *map(of, inner.arguments), source.part)
        return numbers[stored_key(tensor)]

    return (function_identity(recipe.function), *map(of, recipe.arguments))


def function_identity(function: Callable[..., Any]) -> Hashable:
    """The same for functions that compute the same: partials and closures of one function with equal values."""
    try:
        if isinstance(function, functools.partial):
            named = sorted(function.keywords.items())
            values = (*function.args, *(value for _, value in named))
            parts: tuple[Hashable, ...] = (
                function_identity(function.func),
                len(function.args),
                tuple(name for name, _ in named),
                tuple(map(_value_identity, values)),
            )
        elif isinstance(function, types.FunctionType):
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
            values = (*cells, *(function.__defaults__ or ()))
            named = sorted((function.__kwdefaults__ or {}).items())
            parts = (
                function.__code__,
                id(function.__globals__),
                tuple(map(_value_identity, values)),
                tuple((name, _value_identity(value)) for name, value in named),
            )
        else:
            parts = (function,)
        hash(parts)
    except (TypeError, ValueError):  # not hashable; a cell that is empty still
        return id(function)
    return parts


def _value_identity(value: Any) -> Hashable:
    if isinstance(value, types.FunctionType | functools.partial):
        return function_identity(value)
    # 1, 1.0 and True are equal.
    return (type(value), value, repr(value))


def evaluate(recipe: Recipe, values: Mapping[Stored, Tensor]) -> list[Tensor]:
    """The results of a recipe in a program that is traced."""
    known: dict[Recipe, list[Tensor]] = {}

    def results(of: Recipe) -> list[Tensor]:
        if of not in known:
            made = of.function(*map(value, of.arguments))
            known[of] = jax.tree.leaves(made, is_leaf=is_leaf)
        return known[of]

    def value(tensor: Tensor) -> Tensor:
        source = tensor.source
        if isinstance(source, Derived):
            return _cut(results(source.recipe)[source.part], tensor.shape)
        return _cut(values[stored_key(tensor)], tensor.shape)

    return results(recipe)


def _cut(x: Tensor, shape: Shape) -> Tensor:
    """x as the function is told that it is cut."""
    cuts = {t: p for t, p in zip(shape.tags, shape.partitions, strict=True) if p is not OPEN}
    return x.partitioned(**cuts) if cuts else x


def name_of(function: Callable[..., Any]) -> str:
    """What messages call a function, through functools.partial."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__qualname__", type(inner).__name__)).replace(".<locals>", "")


def failed(recipe: Recipe, error: Exception) -> ZmlError:
    """An error of the same kind, if it is one of zml's, with the tensor, the function and what it was given."""
    given = ", ".join(f"{x.source.name} {x.shape}" for x in recipe.arguments)
    said = f"tensor {recipe.name!r}, made by {name_of(recipe.function)} of {given}: {error}"
    if isinstance(error, ZmlError):
        return type(error)(said)
    return CompileError(f"{said} ({type(error).__name__})")
