"""Repeated KV heads give the attention that the original ones give."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from zml.sharding import ShardingError, kv_head_repeats, repeat_heads


def test_repeats_are_the_fewest_that_keep_groups_whole() -> None:
    for kv, group, shards in itertools.product(range(1, 9), range(1, 9), range(1, 13)):
        query = kv * group
        if query % shards:
            continue
        repeats = kv_head_repeats(query, kv, shards)
        assert (kv * repeats) % shards == 0 and query % (kv * repeats) == 0
        assert all((kv * fewer) % shards for fewer in range(1, repeats))
        assert repeats * math.gcd(kv, shards) == shards
        # Each query head, on whichever shard it is, reads a copy of its own KV head there.
        copies = np.repeat(np.arange(kv), repeats)
        for head in range(query):
            shard = head // (query // shards)
            at = head // (query // len(copies))
            assert copies[at] == head // group and at // (len(copies) // shards) == shard


def test_repeat_heads_of_weights_biases_and_caches() -> None:
    weight = np.arange(2 * 3 * 5).reshape(6, 5)
    repeated = repeat_heads(weight, heads=2, repeats=2)
    assert isinstance(repeated, np.ndarray)
    np.testing.assert_array_equal(repeated, weight[[0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]])
    cache = jnp.arange(24).reshape(4, 2, 3)
    np.testing.assert_array_equal(
        repeat_heads(cache, 2, 3, axis=-2), np.repeat(np.asarray(cache), 3, axis=1)
    )
    assert repeat_heads(weight, heads=2, repeats=1) is weight


def test_heads_that_cannot_be_repeated() -> None:
    with pytest.raises(ShardingError, match="6 query heads do not divide by 4 KV heads"):
        kv_head_repeats(6, 4, 2)
    with pytest.raises(ShardingError, match="6 query heads do not divide by 4 shards"):
        kv_head_repeats(6, 2, 4)
    with pytest.raises(ShardingError, match="expected 1 or more"):
        kv_head_repeats(6, 0, 4)
    with pytest.raises(
        ShardingError, match=r"shape \(6, 5\) has 6 elements, which are not 4 heads"
    ):
        repeat_heads(np.zeros((6, 5)), heads=4, repeats=2)
