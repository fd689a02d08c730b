"""Which platform is taken, and why the others are passed over."""

import logging
from pathlib import Path

import pytest

from zml.errors import UnsupportedError
from zml.pjrt.host import Host
from zml.platform import CpuOptions, GpuOptions, Platform, PlatformOptions, Target, candidates


def host(tmp_path: Path, *files: str) -> Host:
    """A machine with these files; sandboxes are in its folder `box`."""
    (tmp_path / "box").mkdir()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("junk")
    environment = (
        {"ZML_SANDBOX_PATH": str(tmp_path / "box")} if any((tmp_path / "box").iterdir()) else {}
    )
    return Host(tmp_path, environment, tmp_path / "none", ())


def test_a_build_without_sandboxes_runs_on_the_cpu(tmp_path: Path) -> None:
    platform = Platform.auto(CpuOptions(2), host=host(tmp_path))
    assert (platform.target, platform.device_name) == (Target.CPU, "2 x cpu")
    assert [str(candidate) for candidate in platform.passed_over] == [
        f"{target}: not in this build (--//platforms:{target}=true adds it)"
        for target in ("tpu", "neuron", "rocm", "cuda")
    ]


def test_the_reason_of_each_is_logged_and_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = host(
        tmp_path,
        "box/tpu/lib/libpjrt_tpu.so",
        "box/rocm/lib/other",
        "box/cuda/lib/libpjrt_cuda.so",
        "dev/nvidia0",
    )
    with caplog.at_level(logging.INFO, "zml.platform"):
        platform = Platform.auto(PlatformOptions(CpuOptions(3), GpuOptions()), host=machine)
    assert platform.device_name == "3 x cpu"
    tpu, neuron, rocm, cuda = map(str, platform.passed_over)
    assert tpu == "tpu: present, no device (no TPU: there is no /dev/accel* or /dev/vfio/*)"
    assert neuron.startswith("neuron: not in this build")
    assert rocm == f"rocm: incomplete: {tmp_path}/box/rocm/lib/libpjrt_rocm.so is missing"
    assert f"the plugin {tmp_path}/box/cuda/lib/libpjrt_cuda.so" in cuda
    assert "could not be loaded" in cuda
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Platform cpu; passed over tpu: present, no device (")
    printed = str(platform)
    assert "passed over" in printed and all(
        reason in printed for reason in (tpu, neuron, rocm, cuda)
    )


def test_candidates_are_looked_at_without_loading_anything(tmp_path: Path) -> None:
    found = candidates(host(tmp_path, "box/cuda/lib/libpjrt_cuda.so", "dev/nvidia0"))
    assert [candidate.target for candidate in found] == ["tpu", "neuron", "rocm", "cuda", "cpu"]
    assert [str(candidate) for candidate in found[3:]] == ["cuda: usable", "cpu: usable"]


def test_a_platform_that_is_asked_for_says_what_is_missing(tmp_path: Path) -> None:
    machine = host(
        tmp_path, "box/cuda/lib/libpjrt_cuda.so", "box/neuron/lib/libpjrt_neuron.so", "dev/neuron0"
    )
    for target, problem in {
        "tpu": "'tpu': its runtime is not in this build.*build with --//platforms:tpu=true, or name the folder",
        "cuda": "'cuda': no NVIDIA GPU: there is no /dev/nvidia.*run on a machine that has one",
        "neuron": "'neuron': the plugin .*libpjrt_neuron.so .* could not be loaded",
    }.items():
        with pytest.raises(UnsupportedError, match=problem):
            Platform.init(target, host=machine)


def test_the_cpu_plugin_comes_from_a_sandbox(tmp_path: Path) -> None:
    machine = host(tmp_path, "box/cpu_plugin/lib/libpjrt_cpu_plugin.so")
    with pytest.raises(
        UnsupportedError, match=r"the plugin .*libpjrt_cpu_plugin.so .* could not be loaded"
    ):
        Platform.init("cpu", CpuOptions(plugin=True), host=machine)
    with pytest.raises(UnsupportedError, match="there is no sandbox 'cpu_plugin'"):
        Platform.init("cpu", CpuOptions(plugin=True), host=Host(tmp_path, {}, tmp_path, ()))
