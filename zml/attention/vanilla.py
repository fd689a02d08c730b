"""Attention in plain XLA operations: the reference that every other backend is compared with."""

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, start: jax.Array | int) -> jax.Array:
    """Causal grouped-query attention; scores and softmax in float32.

    q [tokens, heads, head_dim] stands at positions start, start + 1, ...; k and v [kv_heads, length, head_dim] at
    0, 1, .... `heads` is a multiple of `kv_heads` (equal: MHA; kv_heads 1: MQA). Returns [tokens, heads, head_dim].
    What stands after the last query's position is not looked at, even where it is NaN.
    """
    tokens, heads, head_dim = q.shape
    kv_heads, length, _ = k.shape
    grouped = q.reshape(tokens, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("thgd,hsd->hgts", grouped, k, preferred_element_type=jnp.float32)
    query = start + jnp.arange(tokens)[:, None]
    visible = jnp.arange(length)[None, :] <= query
    scores = jnp.where(visible, scores * head_dim**-0.5, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)

    def mix(values: jax.Array) -> jax.Array:
        return jnp.einsum("hgts,hsd->thgd", weights, values)

    mixed = mix(v)
    if not isinstance(start, int) or start + tokens < length:
        # A weight of 0 does not silence the NaN that an overflow of an earlier text may have left in the cache behind
        # the valid part. Masking v is done only where that shows: it would copy the cache in every step.
        written = jnp.arange(length)[:, None] < start + tokens
        mixed = jax.lax.cond(
            jnp.isnan(mixed).any(), lambda: mix(jnp.where(written, v, 0)), lambda: mixed
        )
    return mixed.reshape(tokens, heads, head_dim)
