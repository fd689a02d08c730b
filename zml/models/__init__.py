"""Model architectures: one readable file each, found by the `model_type` of a checkpoint's config.json."""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

import jax

from zml.attention import KvCache
from zml.errors import ConfigError

_ARCHITECTURES = {"llama": "zml.models.llama"}


class Config(Protocol):
    """What the engine asks of any architecture's config; sizes in elements."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""

    @property
    def layers(self) -> int:
        """Layers that keep keys and values."""

    @property
    def kv_heads(self) -> int:
        """Key and value heads of a layer."""

    @property
    def head_dim(self) -> int:
        """Elements of a head."""

    @property
    def max_positions(self) -> int:
        """The longest context that the model was made for, in tokens."""


class Architecture(Protocol):
    """What a module of this package provides. Configs and weights are of the module's own types."""

    def read_config(self, config: Mapping[str, Any], /) -> Any:
        """Reads a parsed config.json; raises ConfigError for what it does not understand."""

    def weight_specs(self, config: Any, /) -> Any:
        """The pytree of WeightSpecs that a checkpoint of this config holds."""

    def hidden_states(
        self,
        config: Any,
        weights: Any,
        tokens: jax.Array,
        start: jax.Array,
        cache: KvCache[jax.Array],
        /,
    ) -> tuple[jax.Array, KvCache[jax.Array]]:
        """Runs a chunk of tokens [n] at positions from `start` over the cache: states [n, hidden], and the cache."""

    def logits(self, config: Any, weights: Any, hidden: jax.Array, /) -> jax.Array:
        """Logits [..., vocab] in float32 of hidden states [..., hidden]."""


def architecture(model_type: object) -> Architecture:
    """The module for a `model_type`. Raises ConfigError for one that zml does not have."""
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
        given = (
            f"model_type is {model_type!r}" if model_type is not None else "model_type is missing"
        )
        raise ConfigError(f"config.json: {given}, expected one of {', '.join(_ARCHITECTURES)}")
    return cast(Architecture, importlib.import_module(_ARCHITECTURES[model_type]))
