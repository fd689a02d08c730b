"""Weights on disk: safetensors headers, the tensor store, views to declare models from, loading onto devices."""

from zml.declared import Repeat
from zml.io.load import load, stored_bytes
from zml.io.progress import LoadReport
from zml.io.store import TensorStore
from zml.io.view import View

__all__ = ["LoadReport", "Repeat", "TensorStore", "View", "load", "stored_bytes"]
