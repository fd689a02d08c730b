"""Flash attention on NVIDIA's Hopper (9.0), in blocks for its products by groups of warps. See zml.attention.triton."""

from __future__ import annotations

from zml.attention import triton
from zml.attention.base import Availability, Call, Metadata, Parameters, Platform
from zml.attention.triton import Tiles
from zml.shape import Shape
from zml.tensor import Tensor

_TILES = Tiles(queries=128, keys=64, warps=8, stages=3)
"""Two groups of four warps, with 64 rows each."""


def is_available(platform: Platform) -> Availability:
    """On compute capability 9.0."""
    what = "NVIDIA GPUs of compute capability 9.0"
    return triton.is_available(platform, what, least=(9, 0), most=(9, 0))


def supports(q: Shape, k: Shape, _parameters: Parameters) -> Availability:
    """Queries of f32, bf16 and f16, and head dims that are powers of two."""
    return triton.supports(q, k)


def metadata(_q: Shape, _k: Shape, _parameters: Parameters) -> Metadata:
    """It has no scratch."""
    return Metadata()


def attend(call: Call, _metadata: Metadata) -> Tensor:
    """See `Attention.__call__`."""
    return triton.attend(call, _TILES)
