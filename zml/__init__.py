"""zml: run models close to the hardware, from one code base, with nothing hidden in global state.

Nothing is decided and no backend is imported here: the names below are brought in when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zml import attention, compile, errors, io, models, nn, ops, platform, sharding
    from zml.buffer import Buffer, Slice
    from zml.compile import CompileOptions, Exe, ExecutableCache, Runner
    from zml.dtypes import DType
    from zml.io import TensorStore
    from zml.model_tree import model, static
    from zml.platform import (
        CpuOptions,
        DistributedOptions,
        GpuOptions,
        Platform,
        PlatformOptions,
        Target,
    )
    from zml.shape import OPEN, REPLICATED, Shape
    from zml.sharding import (
        BALANCED,
        HIGH_BANDWIDTH,
        LOW_BANDWIDTH,
        LogicalMesh,
        PhysicalMesh,
        Placement,
        Sharding,
        Strategy,
    )
    from zml.tensor import Tensor

_MODULES = {
    "Buffer": "buffer",
    "CompileOptions": "compile",
    "CpuOptions": "platform",
    "DType": "dtypes",
    "DistributedOptions": "platform",
    "Exe": "compile",
    "ExecutableCache": "compile",
    "GpuOptions": "platform",
    "HIGH_BANDWIDTH": "sharding",
    "BALANCED": "sharding",
    "LOW_BANDWIDTH": "sharding",
    "LogicalMesh": "sharding",
    "OPEN": "shape",
    "PhysicalMesh": "sharding",
    "Placement": "sharding",
    "Platform": "platform",
    "PlatformOptions": "platform",
    "REPLICATED": "shape",
    "Runner": "compile",
    "Shape": "shape",
    "Sharding": "sharding",
    "Slice": "buffer",
    "Strategy": "sharding",
    "Target": "platform",
    "Tensor": "tensor",
    "TensorStore": "io",
    "model": "model_tree",
    "static": "model_tree",
}
_ROOMS = ("attention", "compile", "errors", "io", "models", "nn", "ops", "platform", "sharding")

__all__ = [
    "BALANCED",
    "HIGH_BANDWIDTH",
    "LOW_BANDWIDTH",
    "OPEN",
    "REPLICATED",
    "Buffer",
    "CompileOptions",
    "CpuOptions",
    "DType",
    "DistributedOptions",
    "Exe",
    "ExecutableCache",
    "GpuOptions",
    "LogicalMesh",
    "PhysicalMesh",
    "Placement",
    "Platform",
    "PlatformOptions",
    "Runner",
    "Shape",
    "Sharding",
    "Slice",
    "Strategy",
    "Target",
    "Tensor",
    "TensorStore",
    "attention",
    "compile",
    "errors",
    "io",
    "model",
    "models",
    "nn",
    "ops",
    "platform",
    "sharding",
    "static",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"zml.{name}")
    if name in _MODULES:
        return getattr(importlib.import_module(f"zml.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'zml' has no attribute {name!r}")
