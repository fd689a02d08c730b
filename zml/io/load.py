"""Loading weights: from byte ranges of files to arrays on the platform's devices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding

from zml import log
from zml.buffer import Buffer
from zml.io.loading import Loading
from zml.io.progress import LoadReport, Progress, terminal
from zml.io.readers import Readers
from zml.io.store import TensorStore, first_names
from zml.io.transform import Compiler, stored_sources
from zml.model_tree import is_leaf, leaves
from zml.pjrt.client import Client
from zml.shape import Shape
from zml.sharding import Sharding
from zml.units import binary_size
from zml.vfs import Cancellation

_LOG = log.get("io")


class Placer(Compiler, Protocol):
    """Where buffers go: a Platform."""

    @property
    def client(self) -> Client:
        """What owns the devices."""

    def where(
        self, shape: Shape, sharding: Sharding | None = None, memory: str | None = None
    ) -> NamedSharding:
        """How a value of that shape is cut."""

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
    model: M,
    store: TensorStore,
    platform: Placer,
    *,
    shardings: Sequence[Sharding] | None = None,
    progress: bool | None = None,
    verify: bool | None = None,
    cancellation: Cancellation | None = None,
    report: LoadReport | None = None,
) -> M:
    """The model with every declared tensor replaced by a Buffer of its shape, in its place on the platform's devices.

    `shardings` are those to choose from, by default those registered with the platform. Floats are converted to the
    element type that was declared. Of each file only those bytes are read that devices of this process have a use for,
    each once; beside the buffers, the host holds some MB for each reader.

    progress: whether a bar is drawn on stderr; by default on a terminal, for what takes more than a second.
    verify: whether files that come with a checksum are read whole and compared with it. By default those are whose
    checksum costs next to nothing (CRC) and of which all is read anyway; True is for every file, False for none.
    cancellation: ends the load from another thread. Ctrl-C ends one in the main thread by itself. report: filled with
    what was read.

    Everything is checked first: CheckpointError for missing tensors, shapes or dtypes that do not fit, before memory is
    taken. Then ReadError and its kinds for what cannot be read, or changes meanwhile, CorruptedError for what is not
    what its checksum says, CancelledError. Tensors of the checkpoint that the model does not use are logged.
    """
    began = time.perf_counter()
    report = report if report is not None else LoadReport()
    report.bytes_read, report.first_byte_seconds = 0, None
    declared, tree = jax.tree.flatten(model, is_leaf=is_leaf)
    unused = [name for name in store.check(model) if not name.endswith("rotary_emb.inv_freq")]
    if unused:
        _LOG.warning(
            "%d tensors of the checkpoint are not used by the model: %s",
            len(unused),
            first_names(unused),
        )
    with Loading(declared, store, platform, shardings, verify) as loading:
        report.bytes_needed, report.files = loading.needed, len(loading.files)
        bar = Progress(loading.needed, report, terminal(progress), began)
        start, most = loading.streams()
        readers = Readers(
            loading.works(bar), start, most, done=lambda: report.bytes_read, tick=bar.draw
        )
        try:
            readers.run(cancellation)
        finally:
            bar.clear()
        buffers = loading.result(cancellation)
    report.seconds = seconds = time.perf_counter() - began
    report.readers = readers.most
    total = stored_bytes(model, store)
    _LOG.info(
        "Loaded weights [%s, %.3fs, %s/s]",
        binary_size(total),
        seconds,
        binary_size(total / seconds),
    )
    _LOG.debug(
        "Read %s of the %s that the devices need, from %d files, with up to %d readers; the first after %.1f ms",
        binary_size(report.bytes_read),
        binary_size(report.bytes_needed),
        report.files,
        report.readers,
        1e3 * (report.first_byte_seconds or 0),
    )
    loaded: M = jax.tree.unflatten(tree, buffers)
    return loaded


def stored_bytes(model: Any, store: TensorStore) -> int:
    """Bytes on disk of a model's tensors."""
    names = {source.name for leaf in leaves(model) for _, source in stored_sources(leaf)}
    return sum(store.entries[name].end - store.entries[name].begin for name in names)
