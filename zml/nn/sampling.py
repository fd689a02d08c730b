"""Choosing the next token, on the device."""

import jax
import jax.numpy as jnp

from zml.tree import pytree


@pytree
class SamplingState[T]:
    """Sampling parameters as device scalars, so that one compiled program serves every choice of them.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch their filter off. `seed` is a uint32.
    """

    temperature: T
    top_k: T
    top_p: T
    min_p: T
    seed: T


def sample(logits: jax.Array, state: SamplingState[jax.Array], position: jax.Array) -> jax.Array:
    """The token (int32 scalar) drawn from logits [vocab] (float32) for `position`; -1 where they make no distribution.

    That is where one of them is NaN or infinite (an overflow of float16, damaged weights), or all are -inf. The
    random number depends on seed and position alone, so a sequence is repeatable however it was cut into steps.
    Filters follow one another as in transformers: temperature, top-k, top-p, min-p.
    """
    largest = jnp.max(logits)
    # Relative to the largest, so that a tiny temperature takes the others to -inf, not several to +inf.
    scaled = (logits - largest) / state.temperature
    key = jax.random.fold_in(jax.random.key(state.seed), position)

    def greedy() -> jax.Array:
        return jnp.argmax(logits)

    def plain() -> jax.Array:
        return jax.random.categorical(key, scaled)

    def filtered() -> jax.Array:
        ordered, tokens = jax.lax.sort_key_val(-scaled, jnp.arange(logits.size))
        ordered = -ordered
        rank = jnp.arange(logits.size)
        keep = (state.top_k == 0) | (rank < state.top_k)
        probabilities = jax.nn.softmax(jnp.where(keep, ordered, -jnp.inf))
        before = jnp.cumsum(probabilities) - probabilities
        keep &= (state.top_p >= 1) | (before < state.top_p)
        keep &= probabilities >= state.min_p * probabilities[0]
        keep |= rank == 0
        return tokens[jax.random.categorical(key, jnp.where(keep, ordered, -jnp.inf))]

    unfiltered = (state.top_k == 0) & (state.top_p >= 1) & (state.min_p == 0)
    kind = jnp.where(state.temperature == 0, 0, jnp.where(unfiltered, 1, 2))
    token = jax.lax.switch(kind, [greedy, plain, filtered])
    return jnp.where(jnp.isfinite(largest), token, -1).astype(jnp.int32)
