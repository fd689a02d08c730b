"""A checkpoint folder as Hugging Face publishes it: its JSON files, read and checked."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zml.errors import CheckpointError, ConfigError, UnsupportedError

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Checkpoint:
    """The parsed JSON of a checkpoint folder; weights and tokenizer are opened by whoever needs them."""

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def open(model: str) -> "Checkpoint":
        """Opens a local folder. Raises CheckpointError (missing, empty, damaged), UnsupportedError (a URL)."""
        if "://" in model:
            scheme = model.split("://", 1)[0]
            raise UnsupportedError(
                f"--model={model}: the scheme {scheme!r} is not supported yet, only local folders are; "
                "download the checkpoint and give its folder"
            )
        folder = Path(os.path.expanduser(model))  # noqa: PTH111  # Path's raises for an unknown user
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise CheckpointError(
                f"--model={model}: {what}; expected a folder with config.json, *.safetensors and tokenizer.json"
            )
        config = read_json(folder / "config.json", required=True)
        return Checkpoint(folder, config, read_json(folder / "generation_config.json"))

    @property
    def stored_dtype(self) -> str:
        """The dtype that config.json declares (`dtype`, or `torch_dtype` before transformers 5), float32 if none."""
        value = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        if not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES:
            raise ConfigError(
                f"config.json: dtype is {value!r:.200}, expected one of {', '.join(_DTYPES)}"
            )
        return value.removeprefix("torch.")

    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end an answer: those of generation_config.json and of config.json."""
        return frozenset(
            _token_ids(self.generation_config, "generation_config.json")
            + _token_ids(self.config, "config.json")
        )


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """The JSON object in a file; an empty one where the file is absent and not required."""
    if not path.is_file():
        if required:
            raise CheckpointError(
                f"{path}: missing; expected a checkpoint folder as Hugging Face publishes it"
            )
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def _token_ids(config: dict[str, Any], where: str) -> list[int]:
    value = config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(item) is int and item >= 0 for item in ids):
        raise ConfigError(
            f"{where}: eos_token_id is {value!r:.200}, expected a token id or a list of them"
        )
    return ids
