"""The KV cache of one sequence."""

import jax
import jax.numpy as jnp

from zml.tree import pytree


@pytree
class KvCache[T]:
    """Keys and values, an array [kv_heads, length, head_dim] for each layer.

    One array a layer, not one for all: each is donated to the step and updated in place, and no layer's slice is
    ever copied out. The cache does not know how much of it is valid: positions at and after the next token's are
    never attended to, so what stands there does not matter.
    """

    keys: tuple[T, ...]
    values: tuple[T, ...]

    @staticmethod
    def shapes(
        layers: int, kv_heads: int, length: int, head_dim: int, dtype: jnp.dtype
    ) -> "KvCache[jax.ShapeDtypeStruct]":
        """The cache's abstract twin, for compiling."""
        entry = jax.ShapeDtypeStruct((kv_heads, length, head_dim), dtype)
        return KvCache((entry,) * layers, (entry,) * layers)


def append(cached: jax.Array, new: jax.Array, start: jax.Array | int) -> jax.Array:
    """Writes new [tokens, kv_heads, head_dim] into cached [kv_heads, length, head_dim] at position `start`.

    The caller keeps start + tokens <= length; XLA would otherwise move the write back silently.
    """
    new = new.swapaxes(0, 1).astype(cached.dtype)
    return jax.lax.dynamic_update_slice_in_dim(cached, new, start, axis=1)
