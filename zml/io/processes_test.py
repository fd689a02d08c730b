"""Two processes with two CPU devices each load what programs make, which must run in one order in both."""

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from zml import ops
from zml.io import load
from zml.io.transform import plan
from zml.platform import CpuOptions, DistributedOptions, Platform, PlatformOptions
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh, Strategy
from zml.tensor import Tensor
from zml.testing import files
from zml.testing.processes import run_together

_LAYERS = 6


def fuse(*parts: Tensor) -> Tensor:
    return ops.concatenate(parts, "dout")


def run_process(process: int, address: str) -> None:
    """What each of the two does; it fails by an exception."""
    distributed = DistributedOptions(address, process, processes=2, hostname="127.0.0.1")
    options = PlatformOptions(cpu=CpuOptions(2), distributed=distributed)
    rng = np.random.default_rng(3)
    arrays: dict[str, np.ndarray] = {
        f"{i}.{name}": rng.standard_normal((rows, 8), np.float32)
        for i in range(_LAYERS)
        for name, rows in (("q", 8 + 4 * i), ("k", 2), ("v", 2))
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Platform.init("cpu", options) as platform,
    ):
        axes = tuple(platform.mesh.sizes)
        platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH), Strategy(model=axes))
        store = files.store(Path(folder), arrays)
        view = store.view()
        declared = [
            view.derived(
                f"{i}.qkv",
                fuse,
                *(view.tensor(f"{i}.{name}", ("dout", "d")) for name in "qkv"),
                dout="model",
            )
            for i in range(_LAYERS)
        ]
        loaded: Any = load(declared, store, platform)
        _check(loaded, arrays)
        # In another order in each process.
        makings = plan(declared, platform)
        assert all(making.order is not None for making in makings)
        made: dict[int, Any] = {}
        jobs = [(making, number) for making in makings for number in range(len(making.sources))]
        random.Random(process).shuffle(jobs)
        for making, number in jobs:
            need = making.sources[number]
            assert need.tensor.source is not None
            array = arrays[need.tensor.source.name]
            buffer = platform.put(array, need.tensor.shape, sharding=need.sharding)
            made |= making.deliver(number, buffer)
        _check([made[i] for i in range(_LAYERS)], arrays)


def _check(loaded: list[Any], arrays: dict[str, np.ndarray]) -> None:
    for i, buffer in enumerate(loaded):
        whole = np.concatenate([arrays[f"{i}.{name}"] for name in "qkv"])
        assert len(buffer.array.addressable_shards) == 2
        for shard in buffer.array.addressable_shards:
            assert shard.data.shape == (len(whole) // 4, 8)
            np.testing.assert_array_equal(shard.data, whole[shard.index])


def test_two_processes_load_what_programs_make() -> None:
    run_together(__name__)
