"""The whole way through a sandbox: built, found in the runfiles, loaded, and programs compiled and run on it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zml
from platforms.sandbox import manifest
from zml.io.writers import Writers
from zml.pjrt import sandbox
from zml.pjrt.host import Host

SANDBOX = Path("platforms/cpu_plugin/sandbox")
LIBRARY = "lib/libpjrt_cpu_plugin.so"


@pytest.fixture(scope="module")
def platform() -> zml.Platform:
    """From the runfiles, as a program's is."""
    return zml.Platform.init("cpu", zml.CpuOptions(2, plugin=True))


def layer(x: zml.Tensor, w: zml.Tensor) -> zml.Tensor:
    return x.dot(w, "d").tanh()


def check(platform: zml.Platform, partitions: dict[str, str] | None = None) -> None:
    """Compiles and runs a program, and compares its result with numpy's."""
    random = np.random.default_rng(0)
    x = random.standard_normal((5, 7), np.float32)
    w = random.standard_normal((7, 4), np.float32)
    shapes = zml.Shape({"b": 5, "d": 7}, "f32"), zml.Shape({"d": 7, "e": 4}, "f32", partitions)
    exe = platform.compile(layer, *shapes)
    found = exe(platform.put(x, shapes[0]), platform.put(w, shapes[1]))
    assert (found.shape.tags, found.shape.dims) == (("b", "e"), (5, 4))
    np.testing.assert_allclose(np.asarray(found.array), np.tanh(x @ w), rtol=1e-5, atol=1e-6)


def test_the_plugin_is_the_one_in_the_runfiles(platform: zml.Platform) -> None:
    found = sandbox.find(Host(site=()))["cpu_plugin"]
    assert found.source == "runfiles"
    assert found.library.samefile(SANDBOX / LIBRARY)
    assert str(found.library) in str(platform)


def test_a_program_runs(platform: zml.Platform) -> None:
    assert platform.device_name == "2 x cpu"
    check(platform)


def test_a_program_runs_on_two_devices(platform: zml.Platform) -> None:
    platform.sharding("model", zml.LogicalMesh(model=zml.HIGH_BANDWIDTH))
    check(platform, {"e": "model"})


def test_an_executable_is_kept_and_loaded_again(platform: zml.Platform) -> None:
    shape = zml.Shape({"s": 3}, "f32")
    blob = platform.compile(lambda x: x + x, shape).serialize()
    found = platform.deserialize(blob)(platform.put([1.0, 2.0, 3.0], shape))
    assert np.asarray(found.array).tolist() == [2.0, 4.0, 6.0]


def test_the_plugin_says_what_it_cannot_compile(platform: zml.Platform) -> None:
    """An error in it is an exception here, not the end of the process."""
    with pytest.raises(zml.errors.CompileError):
        platform.compile(
            lambda x: x + x,
            zml.Shape({"s": 3}, "f32"),
            options=zml.CompileOptions(xla_flags={"xla_no_such_option": True}),
        )


def test_a_copy_of_the_tree_works_elsewhere(tmp_path: Path) -> None:
    """As in an image: no runfiles, no links, another place."""
    shutil.copytree(SANDBOX, tmp_path / "any name/cpu_plugin")
    program = (
        "import zml\n"
        "with zml.Platform.init('cpu', zml.CpuOptions(1, plugin=True)) as platform:\n"
        "    exe = platform.compile(lambda x: x + x, zml.Shape({'s': 2}, 'i32'))\n"
        "    print(platform, exe(platform.put([1, 2], ('s',))).array.tolist())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": ":".join(filter(None, sys.path)),
            "ZML_SANDBOX_PATH": str(tmp_path / "any name"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "any name/cpu_plugin" / LIBRARY) in result.stdout
    assert "[2, 4]" in result.stdout


def test_the_manifest_is_of_the_files_there() -> None:
    listed = manifest.read(SANDBOX / manifest.NAME)
    assert (listed.target, listed.variant) == ("cpu_plugin", "full")
    assert [(entry.path, entry.size) for entry in listed.files] == [
        (LIBRARY, (SANDBOX / LIBRARY).stat().st_size)
    ]


@pytest.mark.parametrize("staged", [False, True])
def test_arrays_are_built_from_bytes(platform: zml.Platform, staged: bool) -> None:
    """Through the C API too: in the array's own memory, and in parts that are joined on the device."""
    array = np.random.default_rng(1).standard_normal((64, 1024), np.float32)
    shape = zml.Shape({"a": 64, "b": 1024}, "f32")
    with Writers(platform.client, block_bytes=64 << 10, blocks=2, staged=staged) as writers:
        building = writers.array("w", shape, platform.where(shape))
        (writer,) = building.writers
        assert len(writer.parts) == (4 if staged else 1)
        raw = array.tobytes()
        for begin in reversed(range(0, len(raw), 10_000)):
            writer.write(begin, raw[begin : begin + 10_000]).wait()
        view = writer.view()
        buffer = building.finish()
    np.testing.assert_array_equal(np.asarray(buffer.array), array)
    if view is not None:
        address = np.frombuffer(view, np.uint8).ctypes.data
        parts = {shard.data.unsafe_buffer_pointer() for shard in buffer.array.addressable_shards}
        assert parts == {address}
