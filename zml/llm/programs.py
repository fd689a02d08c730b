"""The compiled programs of a generation: prefill in length buckets, and one decode step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zml.attention import KvCache
from zml.compile import Executable
from zml.errors import UsageError
from zml.models import Architecture, Config
from zml.nn.sampling import SamplingState, sample
from zml.platform import Platform

_BUCKETS = (16, 64, 256)


@dataclass(frozen=True)
class Decoder:
    """A model bound to a platform, a dtype and a context length: all that its programs depend on."""

    architecture: Architecture
    config: Config
    platform: Platform
    dtype: np.dtype[Any]
    length: int

    def abstract_weights(self) -> Any:
        """The weights' shapes, dtypes and shardings."""
        specs = self.architecture.weight_specs(self.config)
        return jax.tree.map(
            lambda spec: jax.ShapeDtypeStruct(
                spec.shape, self.dtype, sharding=self.platform.sharding_of(spec)
            ),
            specs,
        )

    def abstract_cache(self) -> KvCache[jax.ShapeDtypeStruct]:
        """The KV cache's shapes, dtypes and shardings: KV heads are split over the devices where they divide."""
        config = self.config
        sharding = self.platform.split(3, 0, config.kv_heads)
        shapes = KvCache.shapes(
            config.layers, config.kv_heads, self.length, config.head_dim, jnp.dtype(self.dtype)
        )
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
        )

    def new_cache(self) -> KvCache[jax.Array]:
        """A KV cache of zeros on the devices."""
        return jax.tree.map(
            lambda leaf: self.platform.put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
            self.abstract_cache(),
        )

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raises UsageError for an empty prompt, an id outside the vocabulary, and a prompt that fills the context."""
        vocab = self.config.vocab_size
        if not prompt:
            raise UsageError("the prompt is empty: at least one token is expected")
        outside = [token for token in prompt if not 0 <= token < vocab]
        if outside:
            raise UsageError(
                f"prompt token id {outside[0]} is outside the model's vocabulary of {vocab}"
            )
        if len(prompt) >= self.length:
            raise UsageError(
                f"the prompt has {len(prompt)} tokens, the context (--seqlen={self.length}) has room for "
                f"{self.length - 1} and an answer: shorten the prompt or raise --seqlen"
            )

    def buckets(self) -> tuple[int, ...]:
        """The chunk lengths that prefill is compiled for, ascending; none longer than the context."""
        fitting = tuple(size for size in _BUCKETS if size <= self.length)
        return fitting or (self.length,)


class Programs:
    """Compiles each program when it is first asked for."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._compiled: dict[str, Executable] = {}

    @property
    def compiled(self) -> list[Executable]:
        """What has been compiled (or taken from the cache) so far."""
        return list(self._compiled.values())

    def prefill(self, bucket: int) -> Executable:
        """(weights, cache, tokens [bucket], start, count, sampling) -> (next token, its position, cache).

        Only the first `count` tokens count; the next token is sampled after the last of them. The cache is donated.
        """
        decoder = self._decoder

        def prefill(
            weights: Any,
            cache: KvCache[jax.Array],
            tokens: jax.Array,
            start: jax.Array,
            count: jax.Array,
            sampling: SamplingState[jax.Array],
        ) -> tuple[jax.Array, jax.Array, KvCache[jax.Array]]:
            hidden, cache = decoder.architecture.hidden_states(
                decoder.config, weights, tokens, start, cache
            )
            last = jax.lax.dynamic_index_in_dim(hidden, count - 1, keepdims=False)
            logits = decoder.architecture.logits(decoder.config, weights, last)
            position = start + count
            return sample(logits, sampling, position), position, cache

        scalar = self._abstract((), np.int32)
        return self._get(
            f"prefill_{bucket}", prefill, self._abstract((bucket,), np.int32), scalar, scalar
        )

    def decode(self) -> Executable:
        """(weights, cache, token, position, sampling) -> (next token, its position, cache); the cache is donated.

        The results are the next call's arguments: tokens go round on the device, the host need not see them in time.
        """
        decoder = self._decoder

        def decode(
            weights: Any,
            cache: KvCache[jax.Array],
            token: jax.Array,
            position: jax.Array,
            sampling: SamplingState[jax.Array],
        ) -> tuple[jax.Array, jax.Array, KvCache[jax.Array]]:
            hidden, cache = decoder.architecture.hidden_states(
                decoder.config, weights, token[None], position, cache
            )
            logits = decoder.architecture.logits(decoder.config, weights, hidden[0])
            return sample(logits, sampling, position + 1), position + 1, cache

        scalar = self._abstract((), np.int32)
        return self._get("decode", decode, scalar, scalar)

    def _abstract(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._decoder.platform.replicated())

    def _get(self, name: str, function: Callable[..., Any], *arguments: Any) -> Executable:
        if name not in self._compiled:
            decoder = self._decoder
            function.__name__ = name
            sampling = SamplingState(
                *(
                    self._abstract((), t)
                    for t in (np.float32, np.int32, np.float32, np.float32, np.uint32)
                )
            )
            self._compiled[name] = decoder.platform.compile(
                function,
                decoder.abstract_weights(),
                decoder.abstract_cache(),
                *arguments,
                sampling,
                donate=(1,),
            )
        return self._compiled[name]
