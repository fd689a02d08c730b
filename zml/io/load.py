"""Loading weights: from byte ranges of files to arrays on the platform's devices."""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np

from zml import log
from zml.errors import CheckpointError
from zml.io.safetensors import Entry
from zml.io.spec import WeightSpec
from zml.io.store import TensorStore
from zml.units import binary_size

_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_READERS = 4
_ALIGNMENT = (
    64  # bytes; PJRT's CPU client aliases memory that is so aligned and copies other memory
)


class Placer(Protocol):
    """Where arrays go: a Platform."""

    def place(self, spec: WeightSpec, host: np.ndarray) -> jax.Array:
        """Host data of a declared weight, on the devices it is split or replicated over."""
        ...


def load(specs: Any, store: TensorStore, platform: Placer, dtype: np.dtype[Any]) -> Any:
    """The tree of WeightSpecs with every leaf replaced by its array, in `dtype`, on the platform's devices.

    Everything is checked first: CheckpointError for missing tensors, shapes or dtypes that do not fit, before memory
    is taken. Tensors of the checkpoint that the model does not use are logged.
    """
    began = time.perf_counter()
    leaves, tree = jax.tree.flatten(specs)
    logger = log.get("io")
    unused = [name for name in store.check(leaves) if not name.endswith("rotary_emb.inv_freq")]
    if unused:
        logger.warning("%d tensors are not used by the model, first %.200s", len(unused), unused[0])
    for spec in leaves:
        entry = store.entries[spec.name]
        if entry.dtype not in _FLOATS:
            raise CheckpointError(
                f"{entry.file}: tensor {spec.name!r} is {entry.dtype}, expected one of {', '.join(_FLOATS)} "
                "(quantized checkpoints are not supported yet)"
            )

    def one(spec: WeightSpec) -> jax.Array:
        host = _read(store.entries[spec.name], spec.name, dtype)
        return platform.place(spec, host)

    with ThreadPoolExecutor(_READERS, thread_name_prefix="zml-load") as pool:
        arrays = jax.block_until_ready(list(pool.map(one, leaves)))
    seconds = time.perf_counter() - began
    total = sum(store.entries[s.name].end - store.entries[s.name].begin for s in leaves)
    logger.info(
        "Loaded weights [%s, %.3fs, %s/s]",
        binary_size(total),
        seconds,
        binary_size(total / seconds),
    )
    return jax.tree.unflatten(tree, arrays)


def stored_bytes(specs: Any, store: TensorStore) -> int:
    """Bytes on disk of the declared weights."""
    entries = [store.entries[spec.name] for spec in jax.tree.leaves(specs)]
    return sum(entry.end - entry.begin for entry in entries)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNMENT
    return buffer[begin : begin + size].view(dtype).reshape(shape)


def _read(entry: Entry, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    stored = _aligned(entry.shape, _FLOATS[entry.dtype])
    view = memoryview(stored.reshape(-1).view(np.uint8))
    try:
        with entry.file.open("rb", buffering=0) as file:
            done = 0
            while done < len(view):
                count = os.preadv(file.fileno(), [view[done:]], entry.begin + done)
                if count == 0:
                    raise CheckpointError(
                        f"{entry.file}: ended at byte {entry.begin + done} while tensor {name!r} was read, "
                        f"expected to reach {entry.end}: was the file changed?"
                    )
                done += count
    except OSError as error:
        raise CheckpointError(f"{entry.file}: cannot be read: {error.strerror}") from error
    return _convert(stored, dtype)


def _convert(stored: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if stored.dtype == dtype:
        return stored
    result = _aligned(stored.shape, dtype)
    if stored.dtype == _FLOATS["BF16"] and dtype == np.float32:
        # bfloat16 is the upper half of a float32: ten times faster than the cast through ml_dtypes.
        bits = result.view(np.uint32)
        bits[...] = stored.view(np.uint16)
        bits <<= 16
    else:
        with np.errstate(over="ignore"):
            result[...] = stored.astype(dtype)
    return result
