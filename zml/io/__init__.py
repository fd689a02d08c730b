"""Weights on disk: safetensors headers, the tensor store, views to declare models from, loading onto devices."""

from zml.io.load import load, stored_bytes
from zml.io.store import TensorStore
from zml.io.view import View

__all__ = ["TensorStore", "View", "load", "stored_bytes"]
