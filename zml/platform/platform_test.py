"""What a platform owns, says and refuses."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from zml.errors import UsageError
from zml.platform import CpuOptions, Platform, Target
from zml.shape import Shape
from zml.sharding import (
    BALANCED,
    HIGH_BANDWIDTH,
    Geometry,
    LogicalMesh,
    PhysicalMesh,
    Sharding,
    ShardingError,
    Strategy,
)

MODEL = LogicalMesh(model=HIGH_BANDWIDTH)
CUT = Shape({"d": 4}, "f32", {"d": "model"})


@functools.cache
def cpu(count: int) -> Platform:
    """Without registered shardings: tests that register one open their own."""
    return Platform.init("cpu", CpuOptions(count))


@pytest.mark.parametrize("target", ["", "CPU", "gpu", None, 3])
def test_an_unknown_target_is_refused(target: str) -> None:
    with pytest.raises(
        UsageError, match="is not a platform; expected one of cpu, cuda, rocm, tpu, neuron"
    ):
        Platform.init(target)


def test_platforms_are_private_and_independent() -> None:
    before = jax.devices()
    one, three = cpu(1), cpu(3)
    assert (one.device_name, three.device_name) == ("cpu", "3 x cpu")
    assert one.put(1).array.devices() == {device.handle for device in one.devices}
    assert three.put(1).array.devices() == {device.handle for device in three.devices}
    assert one.put(1).array.devices().isdisjoint(three.put(1).array.devices())
    assert jax.devices() == before


def test_what_a_platform_says_of_itself() -> None:
    platform = cpu(2)
    assert platform.target is Target.CPU and platform.version.startswith("jaxlib ")
    assert platform.memories == ("device", "pinned_host", "unpinned_host")
    assert platform.local_devices == platform.devices
    device = platform.devices[1]
    assert (device.id, device.kind, device.process, device.local) == (1, "cpu", 0, True)
    assert device.memories == platform.memories and device.memory_stats is None
    assert repr(platform) == "Platform('cpu', 2 x cpu)"


def test_the_mesh_is_of_the_platform_s_devices() -> None:
    platform = cpu(2)
    assert platform.mesh.devices == platform.devices
    given = PhysicalMesh.given(platform.devices, bus=(2, Geometry.TREE))
    assert given.devices == platform.devices


def test_it_prints_as_a_tree() -> None:
    platform = Platform.init("cpu", CpuOptions(2))
    assert "└─ shardings: none registered" in str(platform)
    platform.sharding("model", MODEL)
    lines = str(platform).splitlines()
    assert lines[0] == "Platform cpu: 2 x cpu"
    assert f"├─ version: {platform.version}" in lines
    tail = lines[lines.index("├─ physical mesh: bus x2 (tree)") :]
    assert tail == [
        "├─ physical mesh: bus x2 (tree)",
        "├─ devices",
        "│  ├─ device 0 (cpu)",
        "│  │  └─ memories: device, pinned_host, unpinned_host",
        "│  └─ device 1 (cpu)",
        "│     └─ memories: device, pinned_host, unpinned_host",
        "└─ shardings",
        "   └─ 'model': 2 devices, bus x2 (tree)",
        "      └─ model (high_bandwidth): bus, 2 shards",
    ]


def test_a_sharding_is_registered_once() -> None:
    platform = Platform.init("cpu", CpuOptions(2))
    first = platform.sharding("model", MODEL)
    assert platform.sharding("model", MODEL) is first
    assert platform.sharding("whole", MODEL, Strategy(model=())) != first
    assert [sharding.name for sharding in platform.shardings] == ["model", "whole"]
    with pytest.raises(
        ShardingError,
        match=r"'model' is registered already, as .*high_bandwidth.* and not as .*balanced",
    ):
        platform.sharding("model", LogicalMesh(model=BALANCED))


def test_a_sharding_may_be_over_another_form_of_the_devices() -> None:
    platform = Platform.init("cpu", CpuOptions(4))
    mesh = PhysicalMesh.given(
        platform.devices, bus=(2, Geometry.TREE), link=(2, Geometry.POINT_TO_POINT)
    )
    assert platform.sharding("model", MODEL, mesh=mesh).size("model") == 2


def test_which_sharding_places_a_shape() -> None:
    platform = Platform.init("cpu", CpuOptions(2))
    assert platform.sharding_for(Shape({"d": 4}, "f32")) is platform.replicated
    with pytest.raises(
        ShardingError,
        match=r"\{d=4/model,f32\} is cut over .* no sharding registered; register one",
    ):
        platform.sharding_for(CUT)
    data, model = (
        platform.sharding("data", LogicalMesh(data=HIGH_BANDWIDTH)),
        platform.sharding("model", MODEL),
    )
    assert platform.sharding_for(Shape({"d": 4}, "f32")) is data
    assert platform.sharding_for(CUT) is model
    with pytest.raises(
        ShardingError, match=r"no sharding has all the logical axes that \{d=4/model,f32\}"
    ):
        platform.sharding_for(CUT, data)
    with pytest.raises(
        ShardingError, match=r"\{d=4/other,f32\} is closed on: 'data' has data; 'model' has model"
    ):
        platform.sharding_for(CUT.partitioned(d="other"))


def test_a_sharding_of_another_platform_is_refused() -> None:
    foreign = Sharding.of("theirs", cpu(2).mesh, MODEL)
    problem = (
        r"sharding 'theirs' is over 2 x cpu, of which 2 are devices of another platform than "
        r"Platform\('cpu', 3 x cpu\); make it here: platform.sharding\('theirs', ...\)"
    )
    with pytest.raises(ShardingError, match=problem):
        cpu(3).check_sharding(foreign)
    with pytest.raises(ShardingError, match="another platform"):
        cpu(3).put([1.0, 2.0], ("d",), sharding=foreign)
    with pytest.raises(ShardingError, match="another platform"):
        cpu(3).sharding("theirs", MODEL, mesh=cpu(2).mesh)


def test_jax_s_default_backend_is_never_started() -> None:
    code = """
import numpy as np, zml
platform = zml.Platform.auto(zml.CpuOptions(2))
platform.sharding("model", zml.LogicalMesh(model=zml.HIGH_BANDWIDTH))
shape = zml.Shape({"d": 1 << 22}, "f32", {"d": "model"})
print(platform, platform.client.fingerprint)
print(platform.zeros(shape).numpy().sum(), platform.put(np.zeros(4, np.float32), ("d",)).numpy())
"""
    environment = os.environ | {
        "JAX_PLATFORMS": "no_such_backend",
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(Path.cwd())]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_platform_of_one_process_has_nothing_to_close() -> None:
    with Platform.init("cpu") as platform:
        assert platform.put(np.float32(2)).item() == 2
    platform.close()
