"""Compiles the attention kernels for accelerators that are not here: every chip, and what the backends promise."""

import os
import re
from functools import cache
from typing import Any

import pytest

import zml
from zml.attention import Attention, Backend
from zml.pjrt import sandbox
from zml.pjrt.host import Host
from zml.platform import Platform, described

TARGETS = [os.environ["DESCRIBED"]] if "DESCRIBED" in os.environ else ["cuda", "tpu"]
FOUND = [target for target in TARGETS if target in sandbox.find(Host())]
CHIPS = [name for target in FOUND for name in described.chips()[target]]
PLACES = [
    name
    for name in ("cuda:h100", "cuda:h100x4", "tpu:v5e:1x1", "tpu:v5e:2x2")
    if name.split(":")[0] in FOUND
]
CALLS = {"cuda": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}


@cache
def opened(place: str) -> Platform:
    """Described once for all tests, with a sharding over all devices."""
    platform = Platform.describe(place)
    platform.sharding("model", zml.LogicalMesh(model=zml.HIGH_BANDWIDTH))
    return platform


def compiled(
    place: str, *, dtype: str = "bf16", queries: int = 1, heads: int = 32, kv_heads: int = 8,
    head_dim: int = 128, length: int = 2048, batch: int | None = None, **kind: Any,
) -> zml.Exe:  # fmt: skip
    """The program of one call by the backend that auto takes, without another to fall back on."""
    platform = opened(place)
    cuts = {"h": "model"} if len(platform.devices) > 1 else {}
    sequences = {} if batch is None else {"b": batch}
    attend = Attention.using(Backend.auto(platform))
    query = zml.Shape({**sequences, "q": queries, "h": heads, "hd": head_dim}, dtype)
    cached = zml.Shape({**sequences, "h": kv_heads, "k": length, "hd": head_dim}, dtype)
    number = zml.Shape(sequences, "i32")

    def call(
        q: zml.Tensor, k: zml.Tensor, v: zml.Tensor, start: zml.Tensor, lengths: zml.Tensor
    ) -> zml.Tensor:
        return attend(q, k, v, start=start, lengths=lengths, **kind)

    query, cached = query.partitioned(**cuts), cached.partitioned(**cuts)
    return platform.compile(call, query, cached, cached, number, number)


def targets(exe: zml.Exe) -> set[str]:
    """The kernels that a program calls."""
    return set(re.findall(r'custom_call_target="([^"]+)"', exe.hlo))


@pytest.mark.parametrize("queries", [1, 1024], ids=["decode", "prefill"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("place", PLACES)
def test_a_chunk_over_a_cache(place: str, head_dim: int, queries: int) -> None:
    exe = compiled(place, queries=queries, head_dim=head_dim)
    assert CALLS[place.split(":")[0]] in targets(exe)
    # Queries in their order for the kernel, and what the sharers of the keys of a decode step found.
    own = queries * 32 * head_dim * 2
    assert exe.memory.temporaries <= 3 * own + (1 << 20)
    scores = 32 * queries * 2048 * 4 // len(opened(place).devices)
    assert queries == 1 or exe.memory.temporaries < scores / 4
    assert not re.search("all-gather|all-reduce|all-to-all|collective-permute", exe.hlo)


@pytest.mark.parametrize("place", CHIPS)
def test_every_chip_has_a_kernel(place: str) -> None:
    backend = Backend.auto(opened(place))
    if place in ("cuda:h100", "cuda:h200"):
        assert backend is Backend.CUDA_FA3
    elif place.startswith("cuda:"):
        assert backend is Backend.CUDA_FA2
    else:
        assert backend is Backend.MOSAIC_TPU
    for queries in (1, 256):
        exe = compiled(place, queries=queries)
        assert CALLS[place.split(":")[0]] in targets(exe)


KINDS: dict[str, dict[str, Any]] = {
    "f32": {"dtype": "f32", "queries": 70},
    "ragged-batch": {"batch": 3, "queries": 9, "length": 300},
    "ragged-decode": {"batch": 3, "length": 1100},
    "soft-cap-and-window": {"queries": 60, "softcap": 20.0, "window": 100},
    "not-causal": {"queries": 60, "causal": False, "window": 130},
    "mha": {"queries": 7, "heads": 3, "kv_heads": 3, "length": 23},
    "mqa": {"queries": 7, "heads": 5, "kv_heads": 1, "length": 13},
    "head-dim-256": {"queries": 256, "head_dim": 256},
    "long": {"queries": 4096, "length": 8192},
}
TPU_KINDS: dict[str, dict[str, Any]] = {
    f"head-dim-{n}": {"queries": 40, "head_dim": n} for n in (72, 80, 96)
}
ONES = {"cuda": ("cuda:h100", KINDS), "tpu": ("tpu:v5e:1x1", KINDS | TPU_KINDS)}


@pytest.mark.parametrize(
    ("place", "kind"), [(ONES[target][0], kind) for target in FOUND for kind in ONES[target][1]]
)
def test_kinds_of_calls(place: str, kind: str) -> None:
    target = place.split(":")[0]
    assert CALLS[target] in targets(compiled(place, **ONES[target][1][kind]))
