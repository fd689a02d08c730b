"""Wrong options are refused where they are written."""

from typing import Any

import pytest

from zml.errors import UsageError
from zml.platform import (
    CpuOptions,
    DistributedOptions,
    GpuOptions,
    Platform,
    PlatformOptions,
    Target,
)


@pytest.mark.parametrize(
    "kind, arguments, problem",
    [
        (CpuOptions, {"device_count": 0}, "CpuOptions.device_count: 0; expected an integer of 1"),
        (CpuOptions, {"device_count": True}, "device_count: True; expected an integer"),
        (CpuOptions, {"device_count": 1.5}, "device_count: 1.5; expected an integer"),
        (
            GpuOptions,
            {"allocator": "fast"},
            "'fast' is none; expected one of default, platform, bfc",
        ),
        (GpuOptions, {"memory_fraction": 0}, "memory_fraction: 0 is not a share"),
        (GpuOptions, {"memory_fraction": 90}, "memory_fraction: 90 is not a share"),
        (GpuOptions, {"memory_fraction": float("nan")}, "memory_fraction: nan is not a share"),
        (GpuOptions, {"memory_fraction": "0.5"}, "memory_fraction: '0.5' is not a share"),
        (GpuOptions, {"allocator": "platform", "memory_fraction": 0.5}, "keeps no pool"),
        (GpuOptions, {"allocator": "platform", "preallocate": True}, "keeps no pool"),
        (GpuOptions, {"collective_memory_size": -1}, "collective_memory_size: -1; expected"),
        (
            GpuOptions,
            {"visible_devices": ()},
            r"visible_devices: \(\); expected one device or more",
        ),
        (
            GpuOptions,
            {"visible_devices": (1, 1)},
            r"\(1, 1\); expected one device or more, each once",
        ),
        (GpuOptions, {"visible_devices": (-1,)}, "visible_devices: -1; expected"),
        (
            DistributedOptions,
            {"address": "h", "process": 0, "processes": 1},
            "address: 'h'; expected host:port",
        ),
        (
            DistributedOptions,
            {"address": "h:0", "process": 0, "processes": 1},
            "expected host:port",
        ),
        (
            DistributedOptions,
            {"address": "h:9", "process": 2, "processes": 2},
            "2 of 2 processes; expected 0 to 1",
        ),
        (
            DistributedOptions,
            {"address": "h:9", "process": 0, "processes": 0},
            "processes: 0; expected",
        ),
    ],
)
def test_wrong_values(kind: Any, arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        kind(**arguments)


def test_gpu_options_have_the_names_of_the_plugin() -> None:
    options = GpuOptions("bfc", 0.5, False, 1 << 20, visible_devices=(2, 0))
    assert options.client_options(Target.CUDA) == {
        "platform_name": "cuda",
        "allocator": "bfc",
        "memory_fraction": 0.5,
        "preallocate": False,
        "collective_memory_size": 1 << 20,
        "visible_devices": [2, 0],
    }
    assert GpuOptions().client_options(Target.ROCM) == {
        "platform_name": "ROCM",
        "allocator": "default",
    }


def test_options_of_one_kind_stand_for_those_alone() -> None:
    assert PlatformOptions.of(CpuOptions(2)) == PlatformOptions(cpu=CpuOptions(2))
    assert PlatformOptions.of(GpuOptions()) == PlatformOptions(gpu=GpuOptions())
    assert PlatformOptions.of(None) == PlatformOptions()
    given: Any = {"device_count": 2}
    with pytest.raises(
        UsageError, match=r"options: given \{'device_count': 2\}; expected PlatformOptions"
    ):
        PlatformOptions.of(given)


@pytest.mark.parametrize(
    "target, options, problem",
    [
        ("cpu", GpuOptions(), "platform 'cpu' takes no GPU options"),
        ("tpu", GpuOptions(), "platform 'tpu' takes no GPU options"),
        ("cuda", CpuOptions(), "platform 'cuda' takes no CPU options"),
    ],
)
def test_options_of_another_target_are_refused(target: str, options: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Platform.init(target, options)


def test_auto_keeps_the_options_of_the_target_it_takes() -> None:
    both = PlatformOptions(cpu=CpuOptions(2), gpu=GpuOptions())
    assert both.of_target(Target.CPU) == PlatformOptions(cpu=CpuOptions(2))
    assert both.of_target(Target.CUDA) == PlatformOptions(gpu=GpuOptions())
    assert both.of_target(Target.TPU) == PlatformOptions()
