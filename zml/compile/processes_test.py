"""Two processes with two CPU devices each compile and run one sharded program."""

import tempfile
from pathlib import Path

import numpy as np

from zml.compile import ExecutableCache
from zml.platform import CpuOptions, DistributedOptions, Platform, PlatformOptions
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh, Placement, Strategy
from zml.tensor import Tensor
from zml.testing.processes import run_together


def step(w: Tensor, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    y = x.dot(w, "d")
    return y, (total + y.sum("s")).reuse_buffer(total)


def run_process(process: int, address: str) -> None:
    """What each of the two does; it fails by an exception."""
    distributed = DistributedOptions(address, process, processes=2, hostname="127.0.0.1")
    options = PlatformOptions(cpu=CpuOptions(2), distributed=distributed)
    random = np.random.default_rng(7)
    w, x = random.standard_normal((8, 6)), random.standard_normal((5, 6))
    expected = x @ w.T
    weights = Shape({"o": 8, "d": 6}, "f32", {"o": "model"})
    state = Shape({"o": 8}, "f32", {"o": "model"})
    with (
        tempfile.TemporaryDirectory() as folder,
        Platform.init("cpu", options, cache=ExecutableCache(Path(folder) / "c")) as platform,
    ):
        axes = tuple(platform.mesh.sizes)
        sharding = platform.sharding(
            "model", LogicalMesh(model=HIGH_BANDWIDTH), Strategy(model=axes)
        )
        exe = platform.compile(step, weights, Shape({"s": 5, "d": 6}, "f32"), state)
        run = exe.bake(platform.put(w.astype(np.float32), weights))
        given = platform.put(x.astype(np.float32), ("s", "d"))
        total = platform.zeros(state)
        for times in (1, 2):
            y, total = run(given, total)
            for buffer, whole in ((y, expected), (total, times * expected.sum(0))):
                shards = Placement.of(sharding, buffer.shape).shards
                parts = {shard.device.id: shard.index for shard in shards}
                assert len(buffer.array.addressable_shards) == 2
                for shard in buffer.array.addressable_shards:
                    assert shard.data.shape[-1] == 2
                    np.testing.assert_allclose(
                        shard.data, whole[parts[shard.device.id]], rtol=1e-4, atol=1e-5
                    )


def test_two_processes_run_one_program() -> None:
    run_together(__name__)
