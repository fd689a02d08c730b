"""A checkpoint folder as Hugging Face publishes it: its JSON files, read and checked."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zml.errors import CheckpointError, ConfigError
from zml.vfs import Folder, Vfs

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Checkpoint:
    """The parsed JSON of a checkpoint folder; weights and tokenizer are opened by whoever needs them."""

    folder: Folder
    config: dict[str, Any]
    generation_config: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def open(model: str, vfs: Vfs | None = None) -> "Checkpoint":
        """Opens a folder, local or of any scheme of `vfs` (which stays the caller's; by default one of its own).

        Raises CheckpointError (missing, empty, damaged), and what the scheme raises for what cannot be read.
        """
        home = os.path.expanduser(model)  # noqa: PTH111  # Path's raises for an unknown user
        folder = Folder(model if "://" in model else home, vfs)
        folder.check(f"--model={model}")
        config = read_json(folder, "config.json", required=True)
        return Checkpoint(folder, config, read_json(folder, "generation_config.json"))

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


def read_json(folder: Folder | str | Path, name: str, required: bool = False) -> dict[str, Any]:
    """The JSON object in a file of a folder; an empty one where the file is absent and not required."""
    folder = Folder.of(folder)
    if required:
        content = folder.need(name, "expected a checkpoint folder as Hugging Face publishes it")
    elif (found := folder.read(name)) is None:
        return {}
    else:
        content = found
    path = folder.join(name)
    try:
        value = json.loads(content.decode("utf-8"))
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
