"""Described platforms without a plugin: names, and all that is refused. tests/described_test.py compiles for real."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zml
from zml.errors import CompileError, UnsupportedError, UsageError
from zml.ops import debug_print
from zml.pjrt import child
from zml.pjrt.child import Answer, Kit
from zml.pjrt.host import Host
from zml.platform import Platform, described


def parsed(name: str) -> tuple[str, str, dict[str, Any]]:
    target, topology, options = described._parse(name)
    return target, topology, dict(options)


@pytest.mark.parametrize(
    ("name", "topology", "bounds"),
    [
        ("tpu:v5e", "v5e:1x1", [1, 1, 1]),
        ("tpu:v5e:2x2", "v5e:2x2", [2, 2, 1]),
        ("tpu:v5e:1x2", "v5e:1x2", [1, 2, 1]),
        ("tpu:v6e:2x4", "v6e:2x4", [2, 4, 1]),
        ("tpu:v6e:4x4", "v6e:4x4", [2, 2, 1]),
        ("tpu:v5p:1x1x1", "v5p:1x1x1", [1, 1, 1]),
        ("tpu:v5p:4x4x4", "v5p:4x4x4", [2, 2, 1]),
        ("tpu:7x:2x2x1", "tpu7x:2x2x1", [2, 2, 1]),
    ],
)
def test_tpu_slices(name: str, topology: str, bounds: list[int]) -> None:
    assert parsed(name) == ("tpu", topology, {"chips_per_host_bounds": bounds})


def test_v4_is_one_device_a_chip() -> None:
    assert parsed("tpu:v4")[2]["chip_config_name"] == "megacore"


@pytest.mark.parametrize(
    ("name", "count", "device"),
    [
        ("cuda:h100", 1, "NVIDIA H100 80GB HBM3"),
        ("cuda:h100x4", 4, "NVIDIA H100 80GB HBM3"),
        ("cuda:rtx4090", 1, "NVIDIA GeForce RTX 4090"),
        ("cuda:rtx4090x2", 2, "NVIDIA GeForce RTX 4090"),
        ("rocm:mi300x", 1, "AMD Instinct MI300X"),
        ("rocm:mi300xx8", 8, "AMD Instinct MI300X"),
    ],
)
def test_gpus(name: str, count: int, device: str) -> None:
    target, topology, options = parsed(name)
    assert target == name.split(":")[0]
    assert topology == options["topology"] == f"1x1x{count}"
    assert f'device_description_str: "{device}"' in options["target_config"]


def test_a_description_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "my.txtpb"
    path.write_text('platform_name: "CUDA"')
    assert parsed(f"cuda:{path}x2")[1:] == (
        "1x1x2",
        {"target_config": 'platform_name: "CUDA"', "topology": "1x1x2"},
    )
    with pytest.raises(UsageError, match=r"none\.txtpb cannot be read"):
        parsed(f"cuda:{tmp_path}/none.txtpb")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("h100", "'h100' describes no hardware; expected a name such as tpu:v5e:2x2"),
        ("cuda", "describes no hardware"),
        ("cuda:", "describes no hardware"),
        ("cpu:x", "describes no hardware"),
        ("cuda:h1000", r"no description of 'h1000'; expected one of a100, b200, h100.*cuda:a100x4"),
        ("cuda:h100x0", "no description of 'h100x0'"),
        ("tpu:v9:2x2", "no TPU 'v9'; expected one of v4, v5e"),
        ("tpu:v5e:2x2x2", "'2x2x2' is no form.*2 dimensions.*tpu:v5e:2x2"),
        ("tpu:v5p:2x2", "'2x2' is no form.*3 dimensions.*tpu:v5p:2x2x1"),
        ("tpu:v5e:0x2", "is no form"),
        ("tpu:v5e:", "is no form"),
        ("tpu:v5e:axb", "is no form"),
        ("tpu:v5e:3x3", "no whole hosts"),
    ],
)
def test_wrong_names(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Platform.describe(name)


def test_all_descriptions_are_of_the_same_versions_and_are_listed() -> None:
    folder = Path(described.__file__).parent / "targets"
    texts = {path.stem: path.read_text() for path in folder.glob("*.txtpb")}
    assert {f"{name.replace('_', ':')}" for name in texts} == {
        name for target, names in described.chips().items() if target != "tpu" for name in names
    }
    for target in ("cuda", "rocm"):
        own = [text for name, text in texts.items() if name.startswith(target)]
        versions = {
            tuple(line.strip() for line in text.splitlines() if "version" in line and ":" in line)
            for text in own
        }
        assert len(versions) == 1
        assert all(text.startswith("# Source: ") for text in own)


def test_without_the_plugin_it_says_where_one_comes_from(tmp_path: Path) -> None:
    host = Host(tmp_path, {}, package=tmp_path, site=())
    with pytest.raises(UnsupportedError, match=r"--//platforms:tpu=true.*ZML_SANDBOX_PATH"):
        Platform.describe("tpu:v5e:2x2", host=host)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_that_is_none(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="timeout_seconds"):
        Platform.describe("tpu:v5e:2x2", timeout_seconds=seconds)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Two H100, with a compiler that is only played."""
    library = tmp_path / "cuda/lib/libpjrt_cuda.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"plugin")
    devices = [
        {
            "id": i, "kind": "NVIDIA H100 80GB HBM3", "platform": "gpu", "process": 0,
            "attributes": {"coords": [0, 0, i], "slice_index": 0, "compute_capability": "9.0"},
        }
        for i in range(2)
    ]  # fmt: skip
    monkeypatch.setattr(child, "ask", lambda kit: {"runtime": "H100", "devices": devices})

    def compile_module(
        kit: Kit, module: bytes, ids: list[int], shardy: bool, flags: dict[str, Any]
    ) -> Answer:
        assert module.startswith(b"ML\xefR")
        assert kit.options["topology"] == "1x1x2"
        assert flags["xla_gpu_cuda_data_dir"] == str(tmp_path / "cuda")
        assert shardy
        memory = {"arguments": 8, "results": 4, "reused": 0, "temporaries": 2, "code": 0}
        return Answer(memory, {"flops": 3.0}, 5, b"cubin", zlib.compress(f"HLO {ids}".encode()))

    monkeypatch.setattr(child, "compile_module", compile_module)
    host = Host(tmp_path, {"ZML_SANDBOX_PATH": str(tmp_path)}, package=tmp_path, site=())
    return Platform.describe("cuda:h100x2", host=host)


def double(x: zml.Tensor) -> zml.Tensor:
    return x + x


def test_a_program_has_all_but_a_call(platform: Platform) -> None:
    assert platform.is_described and not platform.has_kernels
    assert platform.device_name == "2 x NVIDIA H100 80GB HBM3"
    assert platform.memories == ("device", "pinned_host")
    assert "link x2 (point-to-point)" in str(platform)
    sharding = platform.sharding("model", zml.LogicalMesh(model=zml.HIGH_BANDWIDTH))
    shape = zml.Shape({"s": 8}, "f32").partitioned(s="model")
    exe = platform.compile(double, shape, shardings=[sharding])
    assert exe.memory.temporaries == 2
    assert exe.memory.code == len(b"cubin")
    assert exe.cost == {"flops": 3.0}
    assert exe.hlo == "HLO [0, 1]"
    assert "stablehlo.add" in exe.stablehlo
    assert exe.signature.inputs[0].shard_bytes == 16
    assert b"cubin" in exe.serialize()
    assert "topology" not in exe.traits, "what only the real devices know is not asked of them"
    for call in (lambda: exe(1), lambda: exe(), lambda: exe.bake(1)):
        with pytest.raises(UnsupportedError, match=r"is only described.*none to run a program on"):
            call()


def test_values_have_no_place(platform: Platform) -> None:
    for put in (
        lambda: platform.put([1.0], ("s",)),
        lambda: platform.put_tree(zml.Slice(np.ones(1, np.float32), ("s",))),
        lambda: platform.zeros(zml.Shape({"s": 4}, "f32")),
    ):
        with pytest.raises(UnsupportedError, match=r"is only described.*none to put a value on"):
            put()


def test_a_program_is_refused_where_it_does_not_belong(platform: Platform) -> None:
    blob = platform.compile(double, zml.Shape({"s": 8}, "f32")).serialize()
    with pytest.raises(CompileError, match="none to load a program on"):
        platform.deserialize(blob)
    with pytest.raises(CompileError) as caught:
        Platform.init("cpu").deserialize(blob)
    said = str(caught.value)
    assert "the program double was compiled for another platform or version than cpu: " in said
    assert "target: cuda, here cpu" in said
    assert "devices: 2 x NVIDIA H100 80GB HBM3, here 1 x cpu" in said
    assert "compute capability: 9.0, here none" in said
    assert "plugin: libpjrt_cuda.so, 6 bytes, here none" in said
    assert "jaxlib" not in said.split("plugin")[0], "what agrees is not named"


def test_a_program_that_prints_belongs_to_a_process(platform: Platform) -> None:
    def f(x: zml.Tensor) -> zml.Tensor:
        return debug_print(x, "x")

    with pytest.raises(CompileError, match=r"debug_print.*'cuda:h100x2', which is only described"):
        platform.compile(f, zml.Shape({"s": 8}, "f32"))


def test_programs_are_kept_in_the_cache(platform: Platform, tmp_path: Path) -> None:
    cache = zml.ExecutableCache(tmp_path / "cache")
    object.__setattr__(platform, "cache", cache)
    first = platform.compile(double, zml.Shape({"s": 8}, "f32"))
    again = platform.compile(double, zml.Shape({"s": 8}, "f32"))
    assert (first.cached, again.cached) == (False, True)
    assert again.memory == first.memory and again.hlo == first.hlo


def test_what_the_compiling_process_said_is_in_the_error(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: Any) -> Answer:
        raise CompileError("the compiling process crashed (SIGSEGV)")

    monkeypatch.setattr(child, "compile_module", crash)
    with pytest.raises(CompileError, match=r"compiling double for 2 x NVIDIA.*crashed \(SIGSEGV\)"):
        platform.compile(double, zml.Shape({"s": 8}, "f32"))
