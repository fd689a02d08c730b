"""Models as data: `@zml.model` dataclasses of tensors, other models, lists of them, and static fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, cast, dataclass_transform

import jax

from zml.buffer import Buffer
from zml.shape import Shape
from zml.tensor import Tensor
from zml.units import binary_size

_STATIC = "zml static"


def static(**options: Any) -> Any:
    """A field that is part of the program, not of the weights: `eps: float = zml.static(default=1e-6)`.

    Takes what `dataclasses.field` does. Its value must be hashable: programs are compiled for it.
    """
    metadata = {**(options.pop("metadata", None) or {}), _STATIC: True}
    return dataclasses.field(**options, metadata=metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def model[C: type](cls: C) -> C:
    """Makes a class a frozen dataclass and a JAX pytree.

    Fields are tensors, models, lists, tuples or dicts of them, or None; those declared with `static` are part of the
    pytree's structure. Declared, the leaves are Tensors without a value; loaded, the same class holds Buffers. Printing
    one shows the tree of its parts with shapes and sizes.
    """
    # dataclass() hands back the very class it was given, which mypy does not know.
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    static_fields = [f.name for f in dataclasses.fields(made) if _STATIC in f.metadata]
    data_fields = [f.name for f in dataclasses.fields(made) if _STATIC not in f.metadata]
    jax.tree_util.register_dataclass(made, data_fields, static_fields)
    if "__repr__" not in cls.__dict__:
        made.__repr__ = describe
    return cast(C, made)


def is_leaf(value: object) -> bool:
    """Whether a part of a model is a value: a Tensor, a Shape or a Buffer. For `jax.tree` functions."""
    return isinstance(value, Tensor | Buffer | Shape)


def leaves(tree: Any) -> list[Any]:
    """The tensors or buffers of a model or of any pytree, in its order."""
    return jax.tree.leaves(tree, is_leaf=is_leaf)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The same with the path of each: `layers[0].q.weight`."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return [(path_name(path), leaf) for path, leaf in found]


def path_name(path: Any) -> str:
    """A path of jax.tree_util as it is written in Python."""
    return jax.tree_util.keystr(path).removeprefix(".")


def byte_size(tree: Any) -> int:
    """Bytes of all tensors or buffers, each counted whole and once."""
    return sum(shape.byte_size for shape in map(shape_of, leaves(tree)) if shape is not None)


def shape_of(leaf: Any) -> Shape | None:
    """The Shape of a leaf, None for what is no tensor."""
    if isinstance(leaf, Shape):
        return leaf
    return leaf.shape if isinstance(leaf, Tensor | Buffer) else None


def describe(tree: Any) -> str:
    """A tree of the parts: shapes with dtypes and partitioning, and bytes. Equal neighbours in a list share a line."""
    shapes = [shape for leaf in leaves(tree) if (shape := shape_of(leaf)) is not None]
    count = sum(shape.count for shape in shapes)
    size = binary_size(sum(shape.byte_size for shape in shapes))
    head = f"{type(tree).__name__}{_statics(tree)}: {count:,} elements, {size}"
    return "\n".join([head, *_branches(tree, "")])


def _statics(tree: Any) -> str:
    if not dataclasses.is_dataclass(tree):
        return ""
    fields = [f for f in dataclasses.fields(tree) if _STATIC in f.metadata]
    shown = ", ".join(f"{f.name}={getattr(tree, f.name)!r:.40}" for f in fields)
    return f"({shown})" if shown else ""


def _children(tree: Any) -> list[tuple[str, Any]]:
    """Named parts, without those that are None; runs of alike parts of a list as one."""
    if isinstance(tree, dict):
        return [(str(key), value) for key, value in tree.items()]
    if dataclasses.is_dataclass(tree):
        fields = [f.name for f in dataclasses.fields(tree) if _STATIC not in f.metadata]
        return [(name, value) for name in fields if (value := getattr(tree, name)) is not None]
    if not isinstance(tree, list | tuple):
        return []
    runs: list[tuple[int, int, Any, Any]] = []
    for index, value in enumerate(tree):
        key = _signature(value)
        if runs and runs[-1][3] == key:
            runs[-1] = (runs[-1][0], index, value, key)
        else:
            runs.append((index, index, value, key))
    return [(f"[{a}]" if a == b else f"[{a}..{b}]", value) for a, b, value, _ in runs]


def _signature(tree: Any) -> Any:
    found, treedef = jax.tree.flatten(tree, is_leaf=is_leaf)
    return treedef, tuple(shape_of(leaf) for leaf in found)


def _branches(tree: Any, indent: str) -> Iterator[str]:
    children = _children(tree)
    for index, (name, value) in enumerate(children):
        last = index == len(children) - 1
        branch = indent + ("└─ " if last else "├─ ")
        shape, each = shape_of(value), " each" if ".." in name else ""
        if shape is not None:
            yield f"{branch}{name} {shape} {binary_size(shape.byte_size)}{each}"
            continue
        plain = isinstance(value, list | tuple | dict)
        kind = "" if plain else f": {type(value).__name__}{_statics(value)}"
        size = binary_size(byte_size(value))
        yield f"{branch}{name}{kind} {size}{each}"
        yield from _branches(value, indent + ("   " if last else "│  "))
