"""The sharding example: what it prints, and that a device with a wrong value is noticed."""

from functools import cache
from typing import Any

import pytest

import zml
from examples.sharding import manual, matmul, meshes
from examples.sharding.main import main
from zml.sharding import manual as collectives


@cache
def platform() -> zml.Platform:
    return zml.Platform.init("cpu", zml.CpuOptions(8))


def test_it_prints_meshes_and_placements(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sharding"]) == 0
    out = capsys.readouterr().out
    for line in (
        "Platform cpu: 8 x cpu",
        "PhysicalMesh: 8 devices, bus x8 (tree)",
        "PhysicalMesh: 8 devices, bus x2 (tree) > link_x x2 (ring) > link x2 (point-to-point)",
        "LogicalMesh(data=low_bandwidth, model=high_bandwidth)",
        "Strategy(model=bus+link, data=link_x)",
        "  model (high_bandwidth): bus + link, 4 shards",
        "  devices in the order of the fold: 0, 2, 1, 3, 4, 6, 5, 7",
        "Placement of {b=16/data,f=4096/model,bf16} by sharding 'folded': 8 parts on 8 devices, 1 copy each",
        "  b=8:16, f=1024:2048  device 3",
        "  device 3 has b=4:8, f=4:8: equal",
        "by_hand under 'folded', 4 shards along 'model'",
        "  reduce_scatter {b=8/data,f=16/model,f32}: equal",
        "  collectives in the compiled program: all-reduce, reduce-scatter, collective-permute",
    ):
        assert line in out.splitlines()
    assert "DIFFERENT" not in out


def test_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sharding", "--help"]) == 0 and main(["sharding", "--devices=4"]) == 2
    assert "error(sharding): Unknown command line flag 'devices'" in capsys.readouterr().err


def test_a_placement_that_disagrees_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fold that is counted in another order puts four of the eight parts on other devices."""
    folded = meshes.register(platform())[2]
    assert matmul.run(platform(), folded) == 8
    other = zml.Strategy(model=("link", "bus"), data="link_x")
    turned = zml.Sharding.of("turned", meshes.imagined(platform()), meshes.LOGICAL, other)
    right = zml.Placement.of

    def wrong(sharding: zml.Sharding, shape: zml.Shape) -> zml.Placement:
        return right(turned, shape)

    monkeypatch.setattr(zml.Placement, "of", staticmethod(wrong))
    assert matmul.run(platform(), folded) == 4
    assert capsys.readouterr().out.count("DIFFERENT") == 4


def test_a_wrong_collective_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def maximum(x: Any, axes: Any) -> Any:
        return real(x, axes, "max")

    real = collectives.all_reduce
    monkeypatch.setattr(collectives, "all_reduce", maximum)
    assert not manual.run(platform(), meshes.register(platform())[2])
