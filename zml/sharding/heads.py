"""KV heads that are fewer than the shards, or do not divide by them, are repeated."""

import math
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from zml.errors import ShardingError


def kv_head_repeats(query_heads: int, kv_heads: int, shards: int) -> int:
    """How often each KV head must be there so that query and KV heads are cut over `shards` at the same places.

    It is the smallest count that makes the KV heads divide. It then divides the query heads of each KV head too: query
    head i goes on reading what was KV head i // (query_heads // kv_heads). 1 if nothing has to be repeated.
    Raises ShardingError if the query heads divide neither by the KV heads nor by the shards.
    """
    if min(query_heads, kv_heads, shards) < 1:
        raise ShardingError(
            f"{query_heads} query heads, {kv_heads} KV heads, {shards} shards: expected 1 or more of each"
        )
    if query_heads % kv_heads:
        raise ShardingError(
            f"{query_heads} query heads do not divide by {kv_heads} KV heads; grouped-query attention "
            "needs the same number of query heads for each KV head"
        )
    if query_heads % shards:
        raise ShardingError(
            f"{query_heads} query heads do not divide by {shards} shards; use a number of devices that divides "
            f"{query_heads}, or leave the heads replicated"
        )
    return shards // math.gcd(kv_heads, shards)


@overload
def repeat_heads(array: np.ndarray, heads: int, repeats: int, axis: int = 0) -> np.ndarray: ...
@overload
def repeat_heads(array: jax.Array, heads: int, repeats: int, axis: int = 0) -> jax.Array: ...
def repeat_heads(array: Any, heads: int, repeats: int, axis: int = 0) -> Any:
    """Repeats each of the `heads` that `axis` holds, one after the other: heads 0, 1 become 0, 0, 1, 1.

    The axis has `heads` elements, or `heads` times a head's own (K and V weights [heads * head_dim, d] and biases).
    Host arrays stay on the host. Raises ShardingError if the axis does not hold that many heads.
    """
    size = array.shape[axis]
    if heads < 1 or size % heads:
        raise ShardingError(
            f"axis {axis} of shape {tuple(array.shape)} has {size} elements, which are not {heads} heads; "
            "give the number of KV heads and the axis that holds them"
        )
    if repeats == 1:
        return array
    axis %= array.ndim
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    numpy: Any = np if isinstance(array, np.ndarray) else jnp
    split = array.reshape(*before, heads, size // heads, *after)
    return numpy.repeat(split, repeats, axis=axis).reshape(*before, size * repeats, *after)
