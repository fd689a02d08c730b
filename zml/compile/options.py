"""What a program may be compiled with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zml.sharding import Partitioner

type Pass = str | Callable[[Any], None]
"""An MLIR pass pipeline (`builtin.module(canonicalize,cse)`), or a function that changes a jaxlib.mlir ir.Module."""


@dataclass(frozen=True)
class CompileOptions:
    """`CompileOptions(xla_flags={"xla_cpu_enable_fast_math": True}, passes=("builtin.module(cse)",))`."""

    xla_flags: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """XLA's debug options for this program alone, by name without dashes. Unknown ones are refused by XLA."""
    partitioner: Partitioner = Partitioner.SHARDY
    """What cuts the program over several devices; GSPMD is for targets that need it."""
    passes: tuple[Pass, ...] = ()
    """Run in order on the StableHLO between lowering and compilation."""
    use_cache: bool = True
    """Whether the platform's executable cache is asked and filled."""
