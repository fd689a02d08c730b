"""Loading weights: from byte ranges of files to arrays on the platform's devices."""

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np

from zml import log
from zml.buffer import Buffer
from zml.declared import Repeat
from zml.dtypes import DType
from zml.errors import CheckpointError
from zml.io.safetensors import STORED, Entry
from zml.io.store import TensorStore, first_names
from zml.model_tree import is_leaf, leaves
from zml.shape import Shape
from zml.sharding import Sharding, select
from zml.tensor import Tensor
from zml.units import binary_size

_LOG = log.get("io")
_READERS = 4
# In bytes: PJRT's CPU client aliases memory that is so aligned, and copies other memory.
_ALIGNMENT = 64


class Placer(Protocol):
    """Where buffers go: a Platform."""

    def put(
        self,
        value: Any,
        shape: Shape,
        /,
        *,
        sharding: Sharding | None = None,
        memory: str | None = None,
        zero_copy: bool = False,
    ) -> Buffer:
        """Host data on the devices, cut as its shape says."""


def load[M](
    model: M, store: TensorStore, platform: Placer, *, shardings: Sequence[Sharding] | None = None
) -> M:
    """The model with every declared tensor replaced by a Buffer of its shape, in its place on the platform's devices.

    `shardings` are those to choose from, by default those registered with the platform. Floats are converted to the
    element type that was declared. Everything is checked first: CheckpointError for missing tensors, shapes or dtypes
    that do not fit, before memory is taken. Tensors of the checkpoint that the model does not use are logged. Beside
    the buffers, the host holds four tensors at a time.
    """
    began = time.perf_counter()
    declared, tree = jax.tree.flatten(model, is_leaf=is_leaf)
    unused = [name for name in store.check(model) if not name.endswith("rotary_emb.inv_freq")]
    if unused:
        _LOG.warning(
            "%d tensors of the checkpoint are not used by the model: %s",
            len(unused),
            first_names(unused),
        )

    def one(tensor: Tensor) -> Buffer:
        source = tensor.source
        assert source is not None
        host = _read(store.entries[source.name], source.name, tensor.dtype.numpy)
        host = _declared_form(host, tensor.shape, source.repeat)
        return platform.put(
            host,
            tensor.shape,
            sharding=select(shardings, tensor.shape) if shardings else None,
            memory=tensor.memory,
            zero_copy=True,
        )

    with ThreadPoolExecutor(_READERS, thread_name_prefix="zml-load") as pool:
        buffers = [buffer.wait() for buffer in pool.map(one, declared)]
    seconds = time.perf_counter() - began
    total = stored_bytes(model, store)
    _LOG.info(
        "Loaded weights [%s, %.3fs, %s/s]",
        binary_size(total),
        seconds,
        binary_size(total / seconds),
    )
    loaded: M = jax.tree.unflatten(tree, buffers)
    return loaded


def stored_bytes(model: Any, store: TensorStore) -> int:
    """Bytes on disk of a model's tensors."""
    names = {leaf.source.name for leaf in leaves(model) if leaf.source is not None}
    return sum(store.entries[name].end - store.entries[name].begin for name in names)


def _declared_form(host: np.ndarray, shape: Shape, repeat: Repeat | None) -> np.ndarray:
    """Stored elements in the declared shape."""
    if repeat is None:
        return host.reshape(shape.dims)
    once = shape.set(**{repeat.tag: shape.dim(repeat.tag) // repeat.times})
    result = _aligned(shape.dims, host.dtype)
    axis = shape.axis(repeat.tag)
    grouped = result.reshape(*once.dims[: axis + 1], repeat.times, *once.dims[axis + 1 :])
    grouped[...] = np.expand_dims(host.reshape(once.dims), axis + 1)
    return result


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNMENT
    return buffer[begin : begin + size].view(dtype).reshape(shape)


def _read(entry: Entry, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    stored = _aligned(entry.shape, STORED[entry.dtype].numpy)
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
    if stored.dtype == DType.BF16.numpy and dtype == np.float32:
        # bfloat16 is the upper half of a float32: ten times faster than the cast through ml_dtypes.
        bits = result.view(np.uint32)
        bits[...] = stored.view(np.uint16)
        bits <<= 16
    else:
        with np.errstate(over="ignore"):
            result[...] = stored.astype(dtype)
    return result
