"""Loading weights: from byte ranges of files to arrays on the platform's devices."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from zml import log
from zml.buffer import Buffer
from zml.declared import Quantized, Repeat
from zml.io.memory import Slabs, aligned
from zml.io.quantize import Quantizing, Scratch
from zml.io.read import convert, read_into
from zml.io.safetensors import STORED, Entry
from zml.io.store import TensorStore, first_names
from zml.model_tree import is_leaf, leaves
from zml.shape import Shape
from zml.sharding import Sharding, select
from zml.tensor import Tensor
from zml.units import binary_size

_LOG = log.get("io")
_READERS = 4


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
    the buffers, the host holds four tensors at a time, and of those that are quantized a few MB of rows.
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

    buffers: list[Buffer | None] = [None] * len(declared)

    def put(index: int, host: np.ndarray[Any, Any]) -> None:
        tensor = declared[index]
        buffers[index] = platform.put(
            host,
            tensor.shape,
            sharding=select(shardings, tensor.shape) if shardings else None,
            memory=tensor.memory,
            zero_copy=True,
        ).wait()

    with ThreadPoolExecutor(_READERS, thread_name_prefix="zml-load") as pool:
        for _ in pool.map(lambda job: job(), _jobs(declared, store, put)):
            pass
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


def _jobs(
    declared: Sequence[Tensor],
    store: TensorStore,
    put: Callable[[int, np.ndarray[Any, Any]], None],
) -> list[Callable[[], None]]:
    """What is to be done, each by one thread: a tensor, or some rows of one that is quantized."""
    jobs: list[Callable[[], None]] = []
    scratch, slabs = Scratch(), Slabs()
    # The parts of a quantized tensor come from one reading.
    parts: dict[tuple[str, Quantized], list[int]] = {}
    for index, tensor in enumerate(declared):
        source = tensor.source
        assert source is not None
        if source.quantized is not None:
            parts.setdefault((source.name, source.quantized), []).append(index)

    def whole(index: int) -> None:
        tensor = declared[index]
        source = tensor.source
        assert source is not None
        host = slabs.array(tensor.shape.dims, tensor.dtype.numpy)
        _read(store.entries[source.name], source.name, tensor.shape, source.repeat, host)
        put(index, host)

    def rows(quantizing: Quantizing, first: int, indices: Sequence[int]) -> None:
        packed = quantizing.take(first)
        for index in indices if packed is not None else ():
            source = declared[index].source
            assert source is not None
            put(index, getattr(packed, source.part))

    for index, tensor in enumerate(declared):
        source = tensor.source
        assert source is not None
        if source.quantized is None:
            jobs.append(partial(whole, index))
            continue
        indices = parts[source.name, source.quantized]
        if index != indices[0]:
            continue
        quantizing = Quantizing(
            store.entries[source.name], source.name, source.quantized, scratch, slabs
        )
        jobs += [partial(rows, quantizing, first, indices) for first in quantizing.chunks()]
    return jobs


def _read(
    entry: Entry, name: str, shape: Shape, repeat: Repeat | None, host: np.ndarray[Any, Any]
) -> None:
    """Fills an array of the declared shape and type with a stored tensor."""
    dtype = STORED[entry.dtype].numpy
    if repeat is None and dtype == host.dtype:
        read_into(host, entry, name)
        return
    stored = aligned(entry.shape, dtype)
    read_into(stored, entry, name)
    if repeat is None:
        convert(stored.reshape(host.shape), host)
        return
    once = shape.set(**{repeat.tag: shape.dim(repeat.tag) // repeat.times})
    axis = shape.axis(repeat.tag)
    grouped = host.reshape(*once.dims[: axis + 1], repeat.times, *once.dims[axis + 1 :])
    for copy in range(repeat.times):
        convert(stored.reshape(once.dims), grouped[(slice(None),) * (axis + 1) + (copy,)])
