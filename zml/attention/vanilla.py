"""Attention in plain XLA operations: the reference that every other backend is compared with."""

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, start: jax.Array | int) -> jax.Array:
    """Causal grouped-query attention; scores and softmax in float32.

    q [tokens, heads, head_dim] stands at positions start, start + 1, ...; k and v [kv_heads, length, head_dim] at
    0, 1, .... `heads` is a multiple of `kv_heads` (equal: MHA; kv_heads 1: MQA). Returns [tokens, heads, head_dim].
    """
    tokens, heads, head_dim = q.shape
    kv_heads, length, _ = k.shape
    grouped = q.reshape(tokens, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("thgd,hsd->hgts", grouped, k, preferred_element_type=jnp.float32)
    query = start + jnp.arange(tokens)[:, None]
    visible = jnp.arange(length)[None, :] <= query
    scores = jnp.where(visible, scores * head_dim**-0.5, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("hgts,hsd->thgd", weights, v)
    return mixed.reshape(tokens, heads, head_dim)
