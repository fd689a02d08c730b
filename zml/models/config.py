"""Reading a Hugging Face config.json strictly: what is not understood is an error, never a silent default."""

from collections.abc import Mapping, Sequence
from typing import Any

from zml.checks import is_number
from zml.errors import ConfigError

# Keys that describe the checkpoint, its training or another program's habits, and never change a forward pass.
_INERT = {
    "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id", "cache_implementation",
    "chunk_size_feed_forward",
    "dtype", "eos_token_id", "finetuning_task", "id2label", "initializer_range", "is_decoder", "is_llama_config",
    "label2id", "model_type", "name_or_path", "output_attentions",
    "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "return_dict",
    "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype", "transformers.js_config",
    "transformers_version", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_cache",
}  # fmt: skip


class ConfigReader:
    """Reads typed keys of a config.json and remembers which; `finish` refuses the ones that nobody asked for."""

    def __init__(self, config: Mapping[str, Any], model_type: str) -> None:
        self._config = config
        self._model_type = model_type
        self._read: set[str] = set()

    def integer(self, key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        """An integer from 1 to `most`; without a default the key must be there."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self._wrong(key, value, f"a positive integer of at most {most}")
        return value

    def natural(self, key: str, default: int) -> int:
        """An integer of 0 or more."""
        return 0 if self._get(key, default) == 0 else self.integer(key, default)

    def window(self, default: int | None) -> int | None:
        """sliding_window: a positive integer, or null for none; the default where the key is missing."""
        self._read.add("sliding_window")
        if "sliding_window" in self._config and self._config["sliding_window"] is None:
            return None
        return self.integer("sliding_window", default)

    def layer_types(self, layers: int, default: Sequence[str]) -> Sequence[str]:
        """layer_types: full_attention or sliding_attention for each layer."""
        value = self._get("layer_types", default)
        known = ("full_attention", "sliding_attention")
        if (
            not isinstance(value, list)
            or len(value) != layers
            or any(x not in known for x in value)
        ):
            raise self._wrong("layer_types", value, f"a list of {layers} of {' and '.join(known)}")
        return value

    def optional_number(self, key: str) -> float | None:
        """A positive number, or None where the key is missing or null."""
        return None if self._get(key, None) is None else self.number(key, 1.0)

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self._get(key, default)
        if not is_number(value) or value <= 0:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def choice(self, key: str, default: str, choices: Mapping[str, Any]) -> str:
        """One of the keys of `choices`."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(key, value, f"one of {', '.join(choices)}")
        return value

    def taken(self, *keys: str) -> None:
        """Marks keys as understood that another reader has parsed."""
        self._read.update(keys)

    def finish(self) -> None:
        """Raises ConfigError for keys that were not read, are not known to be inert, and are switched on."""
        unknown = sorted(
            key
            for key, value in self._config.items()
            if key not in self._read
            and key not in _INERT
            and not key.startswith("_")
            and value not in (None, False, "", [], {})
        )
        if unknown:
            raise ConfigError(
                f"config.json: the {self._model_type} model does not understand "
                + ", ".join(f"{key}={self._config[key]!r:.200}" for key in unknown)
                + "; running without it could give wrong results. If it does not change the forward pass, "
                "delete it from config.json"
            )

    def _get(self, key: str, default: object) -> object:
        self._read.add(key)
        value = self._config.get(key)
        return default if value is None else value

    def _wrong(self, key: str, value: object, expected: str) -> ConfigError:
        given = f"is {value!r:.200}" if value is not None else "is missing"
        return ConfigError(
            f"config.json: {key} {given}, the {self._model_type} model expects {expected}"
        )
