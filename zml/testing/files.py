"""Writing safetensors files for tests, healthy ones and, from raw parts, hostile ones."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zml.dtypes import DType
from zml.io import TensorStore
from zml.io.safetensors import STORED

_NAMES = {dtype: name for name, dtype in STORED.items()}


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file from its parts: `header` is bytes or JSON; `length` is what the file claims of it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A healthy safetensors file of named arrays."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        dtype = DType.of(array.dtype)
        raw = array.tobytes()
        if dtype.bits == 4:
            # On the host an element takes a byte; the format has two in one, the first in the low bits.
            halves = np.frombuffer(raw, np.uint8) & 15
            raw = (halves[::2] | halves[1::2] << 4).tobytes()
        begin, data = len(data), data + raw
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, len(data)],
        }
    return safetensors(header, data)


def store(folder: Path, arrays: Mapping[str, np.ndarray]) -> TensorStore:
    """Writes named arrays as model.safetensors of a folder, and opens it."""
    (folder / "model.safetensors").write_bytes(tensors(arrays))
    return TensorStore.open(folder)
