"""The KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zml.errors import ShapeError
from zml.model_tree import model
from zml.ops import vmap
from zml.shape import AxisPartition, Shape
from zml.tensor import Tensor


@model
class KvCache:
    """Keys and values: a tensor {h, k, hd} for each layer, {b, h, k, hd} for a batch of sequences.

    One tensor a layer, not one for all: each is donated to the step and updated in place, and no layer's slice is
    ever copied out. The cache does not know how much of it is valid: positions at and after the next token's are
    never attended to, so what stands there does not matter.
    """

    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]

    @staticmethod
    def declare(
        layers: int,
        shape: Shape | Mapping[str, int],
        dtype: Any = None,
        **partitions: AxisPartition,
    ) -> KvCache:
        """To compile for: `KvCache.declare(32, {"h": 8, "k": 4096, "hd": 128}, "bf16", h="model")`.

        A decode step reads the cache without a transposition where `k` and `hd` are its last axes.
        """
        shape = Shape(shape, dtype) if not isinstance(shape, Shape) else shape
        for tag in ("h", "k", "hd"):
            if tag not in shape:
                raise ShapeError(f"KvCache.declare: there is no axis {tag!r}; given {shape}")
        x = Tensor.declare(shape.partitioned(**partitions))
        return KvCache((x,) * layers, (x,) * layers)

    @property
    def length(self) -> int:
        """How many positions it has room for."""
        return self.k[0].dim("k")

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer."""
        return self.k[index], self.v[index]

    def append(self, layer: int, k: Tensor, v: Tensor, start: Tensor | int) -> KvCache:
        """With keys and values {k, h, hd} written to a layer at position `start`, as `append` says."""
        keys, values = list(self.k), list(self.v)
        keys[layer] = append(keys[layer], k, start)
        values[layer] = append(values[layer], v, start)
        return KvCache(tuple(keys), tuple(values))

    def reuse_buffer(self, old: KvCache) -> KvCache:
        """In the memory of the cache that the program was given, which is donated: see Tensor.reuse_buffer."""
        return KvCache(
            tuple(new.reuse_buffer(given) for new, given in zip(self.k, old.k, strict=True)),
            tuple(new.reuse_buffer(given) for new, given in zip(self.v, old.v, strict=True)),
        )


def append(cached: Tensor, new: Tensor, start: Tensor | int) -> Tensor:
    """Writes new {k, h, hd}, in any order of axes and any float type, into cached from position `start` on.

    `start` is a number, an integer tensor of rank 0, or one with batch tags of both. The caller keeps start + the new
    positions within the length; the write would be moved back silently, as in XLA. Raises ShapeError for shapes that
    do not fit.
    """
    fits = sorted(new.tags) == sorted(cached.tags) and all(
        new.dim(tag) == cached.dim(tag) for tag in new.tags if tag != "k"
    )
    length = cached.dim("k") - (start if isinstance(start, int) else 0)
    if not fits or new.dim("k") > length:
        at = f" at {start}" if isinstance(start, int) else ""
        raise ShapeError(
            f"append: {new.shape} does not fit into the cache {cached.shape}{at}; expected the same axes, and new "
            "positions within its length on 'k': rename() the axis of the tokens"
        )
    new = new.transpose(*cached.tags).convert(cached.dtype)
    if isinstance(start, int) or not start.rank:
        return cached.dynamic_update_slice(new, k=start)
    # One place for each sequence of the batch.
    write = append
    for tag in start.tags:
        write = vmap(write, tag)
    return write(cached, new, start).transpose(*cached.tags)
