"""Attention: the KV cache, and the backends that read it."""

from zml.attention.api import Attention, Backend, attention
from zml.attention.base import Availability, Metadata, Parameters
from zml.attention.cache import KvCache, append

__all__ = [
    "Attention",
    "Availability",
    "Backend",
    "KvCache",
    "Metadata",
    "Parameters",
    "append",
    "attention",
]
