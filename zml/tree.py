"""Dataclasses that are JAX pytrees."""

from dataclasses import dataclass
from typing import Any, cast, dataclass_transform

import jax


@dataclass_transform(frozen_default=True)
def pytree[C: type](cls: C) -> C:
    """Makes a class a frozen dataclass whose fields, in order, are the children of a pytree."""
    # dataclass() hands back the very class it was given, which mypy does not know.
    frozen: Any = dataclass(frozen=True)(cls)
    jax.tree_util.register_dataclass(frozen)
    return cast(C, frozen)
