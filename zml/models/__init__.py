"""Model architectures: one readable file each, found by the `model_type` of a checkpoint's config.json."""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from zml.errors import ConfigError
from zml.io import View
from zml.models.decoder import Decoder
from zml.models.decoder_config import Config

_ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}


class Architecture(Protocol):
    """What a module of this package provides."""

    def read_config(self, config: Mapping[str, Any], /) -> Config:
        """Reads a parsed config.json; raises ConfigError for what it does not understand."""

    def init(self, view: View, config: Config, shards: int = 1) -> Decoder:
        """Declares the model for weights that are cut `shards` times."""


def architecture(model_type: object) -> Architecture:
    """The module for a `model_type`. Raises ConfigError for one that zml does not have."""
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
        given = (
            f"model_type is {model_type!r}" if model_type is not None else "model_type is missing"
        )
        raise ConfigError(f"config.json: {given}, expected one of {', '.join(_ARCHITECTURES)}")
    return cast(Architecture, importlib.import_module(f"zml.models.{_ARCHITECTURES[model_type]}"))


__all__ = ["Architecture", "Config", "Decoder", "architecture"]
