"""zml: run models close to the hardware, from one code base, with nothing hidden in global state.

Nothing is decided and no backend is imported here: the names below are brought in when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zml import ops
    from zml.dtypes import DType
    from zml.shape import Shape
    from zml.tensor import Tensor

__all__ = ["DType", "Shape", "Tensor", "ops"]

_MODULES = {"DType": "zml.dtypes", "Shape": "zml.shape", "Tensor": "zml.tensor"}


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("zml.ops")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'zml' has no attribute {name!r}")
