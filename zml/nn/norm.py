"""Normalisations over one axis, computed in float32 whatever the element type."""

from __future__ import annotations

from zml.io.view import View
from zml.model_tree import model, static
from zml.shape import AxisPartition
from zml.tensor import Tensor


@model
class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * (offset + weight) (Zhang & Sennrich, arXiv:1910.07467).

    As in transformers' LlamaRMSNorm the normalised x is rounded to its element type before it is multiplied; with
    `wide` the product is taken in float32 and rounded once, as in GemmaRMSNorm, which has the offset 1 too.
    """

    weight: Tensor
    eps: float = static()
    offset: float = static(default=0.0)
    wide: bool = static(default=False)
    tag: str = static(default="d")

    @classmethod
    def init(
        cls,
        view: View,
        size: int,
        *,
        eps: float,
        offset: float = 0.0,
        wide: bool = False,
        tag: str = "d",
        **partitions: AxisPartition,
    ) -> RmsNorm:
        """Declares `weight` [size], the axis `tag`: `RmsNorm.init(view.prefix("q_norm"), 128, eps=1e-6, tag="hd")`."""
        weight = view.tensor("weight", {tag: size}).partitioned(**partitions)
        return cls(weight, eps, offset, wide, tag)

    def __call__(self, x: Tensor) -> Tensor:
        """x {.., tag} -> the same shape and element type."""
        full = x.convert("f32")
        mean = full.square().mean(self.tag)
        normal = full * (mean + self.eps).rsqrt().broadcast(x.shape)
        if not self.wide:
            scale = self.weight.convert(x.dtype)
            scale = scale + self.offset if self.offset else scale
            return normal.convert(x.dtype) * scale.broadcast(x.shape)
        scale = self.weight.convert("f32")
        scale = scale + self.offset if self.offset else scale
        return (normal * scale.broadcast(x.shape)).convert(x.dtype)


@model
class LayerNorm:
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al., arXiv:1607.06450), rounded once."""

    weight: Tensor
    bias: Tensor | None
    eps: float = static()
    tag: str = static(default="d")

    @classmethod
    def init(
        cls,
        view: View,
        size: int,
        *,
        eps: float,
        bias: bool = True,
        tag: str = "d",
        **partitions: AxisPartition,
    ) -> LayerNorm:
        """Declares `weight` and perhaps `bias`, both [size], the axis `tag`."""
        weight = view.tensor("weight", {tag: size}).partitioned(**partitions)
        if not bias:
            return cls(weight, None, eps, tag)
        return cls(weight, view.tensor("bias", {tag: size}).partitioned(**partitions), eps, tag)

    def __call__(self, x: Tensor) -> Tensor:
        """x {.., tag} -> the same shape and element type."""
        full = x.convert("f32")
        centred = full - full.mean(self.tag).broadcast(x.shape)
        variance = centred.square().mean(self.tag)
        y = centred * (variance + self.eps).rsqrt().broadcast(x.shape)
        y = y * self.weight.convert("f32").broadcast(x.shape)
        if self.bias is not None:
            y = y + self.bias.convert("f32").broadcast(x.shape)
        return y.convert(x.dtype)
