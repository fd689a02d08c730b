"""Weights on disk: safetensors headers, the tensor store, loading onto devices."""

from zml.io.spec import WeightSpec
from zml.io.store import TensorStore
from zml.io.view import View

__all__ = ["TensorStore", "View", "WeightSpec"]
