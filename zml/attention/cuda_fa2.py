"""Flash attention on NVIDIA GPUs whose tensor cores take bfloat16: Ampere, Ada, Blackwell. See zml.attention.triton."""

from __future__ import annotations

from zml.attention import triton
from zml.attention.base import Availability, Call, Metadata, Parameters, Platform
from zml.attention.triton import Tiles
from zml.shape import Shape
from zml.tensor import Tensor

_TILES = Tiles(queries=64, keys=64, warps=4, stages=2)
"""100 kB of shared memory with head dim 128, which every such chip has."""


def is_available(platform: Platform) -> Availability:
    """On compute capability 8.0 and above."""
    what = "NVIDIA GPUs of compute capability 8.0 and above"
    return triton.is_available(platform, what, least=(8, 0), most=(99, 9))


def supports(q: Shape, k: Shape, _parameters: Parameters) -> Availability:
    """Queries of f32, bf16 and f16, and head dims that are powers of two."""
    return triton.supports(q, k)


def metadata(_q: Shape, _k: Shape, _parameters: Parameters) -> Metadata:
    """It has no scratch."""
    return Metadata()


def attend(call: Call, _metadata: Metadata) -> Tensor:
    """See `Attention.__call__`."""
    return triton.attend(call, _TILES)
