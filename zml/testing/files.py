"""Writing checkpoints for tests, healthy ones and, from raw parts, hostile ones."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from zml.models import llama
from zml.testing.tiny import CONFIG, WORDS, byte_tokenizer, random_weights

_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "uint8": "U8",
}  # fmt: skip


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file from its parts: `header` is bytes or JSON; `length` is what the file claims of it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A healthy safetensors file of named arrays."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, len(data)],
        }
    return safetensors(header, data)


def weights(config: Mapping[str, Any] = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a Llama by their names in a checkpoint."""
    parsed = llama.read_config(config)
    names = [spec.name for spec in jax.tree.leaves(llama.weight_specs(parsed))]
    return dict(zip(names, jax.tree.leaves(random_weights(parsed, seed)), strict=True))


def checkpoint(folder: Path, **changes: Any) -> Path:
    """Writes a tiny random Llama with tokenizer and chat template; `changes` go over its config.json."""
    config = CONFIG | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(tensors(weights(config)))
    byte_tokenizer(WORDS).save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder
