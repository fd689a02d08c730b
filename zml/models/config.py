"""Reading a Hugging Face config.json strictly: what is not understood is an error, never a silent default."""

from collections.abc import Mapping, Sequence
from typing import Any

from zml.checks import is_number
from zml.errors import ConfigError

# Keys that describe the checkpoint, its training or another program's habits, and never change a forward pass.
_INERT = {
    "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id", "cache_implementation",
    "chunk_size_feed_forward", "dtype", "eos_token_id", "finetuning_task", "id2label", "initializer_range",
    "is_decoder", "is_llama_config", "label2id", "model_type", "name_or_path", "output_attentions",
    "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "return_dict", "sep_token_id",
    "task_specific_params", "tokenizer_class", "torch_dtype", "transformers.js_config", "transformers_version",
    "unk_token_id", "unsloth_fixed", "unsloth_version", "use_cache",
}  # fmt: skip


class ConfigReader:
    """Reads typed keys of a config.json and remembers which; `finish` refuses the ones that nobody asked for.

    A key that is null counts as missing, as it does to transformers. All methods raise ConfigError, which names the
    key, its value, and what the model expects.
    """

    def __init__(self, config: Mapping[str, Any], model_type: str) -> None:
        self.config = config
        self.model_type = model_type
        self._read: set[str] = set()

    def integer(self, key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        """An integer from 1 to `most`; without a default the key must be there."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self.wrong(key, value, f"a positive integer of at most {most}")
        return value

    def natural(self, key: str, default: int) -> int:
        """An integer of 0 or more."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.wrong(key, value, "an integer of 0 or more")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self._get(key, default)
        if not is_number(value) or value <= 0:
            raise self.wrong(key, value, "a positive number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """A positive number, or None where the key is missing."""
        return None if self._get(key, None) is None else self.number(key, 1.0)

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def choice(self, key: str, default: str, choices: Mapping[str, Any]) -> str:
        """One of the keys of `choices`."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(key, value, f"one of {', '.join(choices)}")
        return value

    def window(self, default: int) -> int | None:
        """sliding_window: a positive integer, or None where it is null, which is not the same as missing."""
        if "sliding_window" in self.config and self.config["sliding_window"] is None:
            self.taken("sliding_window")
            return None
        return self.integer("sliding_window", default)

    def layer_types(self, default: Sequence[str]) -> Sequence[str]:
        """layer_types: full_attention or sliding_attention, as many as the default has."""
        value = self._get("layer_types", default)
        known = ("full_attention", "sliding_attention")
        fits = isinstance(value, list) and len(value) == len(default)
        if not isinstance(value, list) or not fits or any(kind not in known for kind in value):
            raise self.wrong(
                "layer_types", value, f"a list of {len(default)} of {' and '.join(known)}"
            )
        return value

    def taken(self, *keys: str) -> None:
        """Marks keys as understood that another reader has parsed."""
        self._read.update(keys)

    def finish(self) -> None:
        """Raises ConfigError for keys that were not read, are not known to be inert, and are switched on."""
        unknown = sorted(
            key
            for key, value in self.config.items()
            if key not in self._read
            and key not in _INERT
            and not key.startswith("_")
            and value not in (None, False, "", [], {})
        )
        if unknown:
            raise ConfigError(
                f"config.json: the {self.model_type} model does not understand "
                + ", ".join(f"{key}={self.config[key]!r:.200}" for key in unknown)
                + "; running without it could give wrong results. If it does not change the forward pass, "
                "delete it from config.json"
            )

    def wrong(self, key: str, value: object, expected: str) -> ConfigError:
        """The error for a key that has another value than the model expects."""
        given = f"is {value!r:.200}" if value is not None else "is missing"
        return ConfigError(
            f"config.json: {key} {given}, the {self.model_type} model expects {expected}"
        )

    def _get(self, key: str, default: object) -> object:
        self.taken(key)
        value = self.config.get(key)
        return default if value is None else value
