"""Attention: the KV cache and the backends that read it."""

from zml.attention.cache import KvCache
from zml.attention.vanilla import attention

__all__ = ["KvCache", "attention"]
