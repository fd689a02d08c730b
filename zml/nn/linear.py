"""Products with a weight matrix, and the table of token embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zml.declared import Repeat
from zml.dtypes import DType
from zml.errors import ShapeError
from zml.io.view import View
from zml.model_tree import model, static
from zml.nn.product import products
from zml.nn.quantized import QuantizedWeight
from zml.shape import AxisPartition
from zml.tensor import Tensor

# Rows and columns for which DeepSeek's and Qwen's checkpoints have a scale.
_BLOCK = (128, 128)


@model
class Linear:
    """y = W x + b. The weight has the tags of the result, then those of the input that it sums over."""

    weight: Tensor | QuantizedWeight
    bias: Tensor | None
    inner: tuple[str, ...] = static()
    """The tags of the weight that are summed over."""

    @classmethod
    def init(
        cls,
        view: View,
        out: Mapping[str, int],
        inner: Mapping[str, int],
        *,
        bias: bool = False,
        repeat: Repeat | None = None,
        **partitions: AxisPartition,
    ) -> Linear:
        """Declares `weight`, stored as [prod(out), prod(inner)], and perhaps `bias` [prod(out)].

        `Linear.init(view.prefix("q_proj"), {"h": 32, "hd": 128}, {"d": 4096}, h="model")`. `repeat` is for heads that
        come several times over: `out` counts the repeats. Partitions may be of any axis of the weight; the bias takes
        those of its own. Where the view says so the weight is quantized; one that is stored in 8-bit floats with scales
        beside it is dequantized. Raises ShapeError for tags that out and inner
        share, and for a repeat that does not fit.
        """
        shared = [tag for tag in out if tag in inner]
        if shared or not inner:
            problem = f"{shared} stand on both sides" if shared else "there is no inner axis"
            raise ShapeError(
                f"Linear.init: {problem}; given out {dict(out)} and inner {dict(inner)}; "
                "name the axes of the result otherwise, and rename() it afterwards"
            )
        once = out if repeat is None else repeat.once("Linear.init", out)
        rows, columns = math.prod(once.values()), math.prod(inner.values())
        weight: Tensor | QuantizedWeight
        if QuantizedWeight.suits(view, inner):
            weight = QuantizedWeight.init(view, "weight", out, inner, repeat=repeat, **partitions)
        else:
            dims = {**out, **inner}
            weight = view.dequantized(
                "weight", dims, stored=(rows, columns), repeat=repeat, block=_BLOCK, **partitions
            )
        if not bias:
            return cls(weight, None, tuple(inner))
        cuts = {tag: cut for tag, cut in partitions.items() if tag in out}
        return cls(
            weight,
            view.tensor("bias", out, stored=(rows,), repeat=repeat, **cuts),
            tuple(inner),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x {.., inner} -> {.., out}, in the element type of both. Raises ShapeError for tags or types that differ."""
        return project(x, self)[0]

    @property
    def out(self) -> tuple[str, ...]:
        """The tags of the result that come from the weight."""
        return tuple(tag for tag in self.weight.tags if tag not in self.inner)

    def without_bias(self) -> Linear:
        """The product alone."""
        return replace(self, bias=None)


def project(x: Tensor, *layers: Linear, dtype: Any = None) -> tuple[Tensor, ...]:
    """The results of several layers of one input, as each alone would give them: `q, k, v = project(x, wq, wk, wv)`.

    For a kernel this is one call. `dtype` is the type of the results, by default that of x: logits want f32.
    """
    for layer in layers:
        doubled = [tag for tag in layer.out if tag in x.tags]
        if doubled:
            # The product would take them for batch axes.
            raise ShapeError(
                f"Linear: the input already has the axes {doubled} of the result; given {x.shape} and a weight "
                f"{layer.weight.shape}; rename() them in the input"
            )
    return products(x, layers, None if dtype is None else DType.of(dtype))


@model
class Embedding:
    """A vector {d} for each token: weight {voc, d}."""

    weight: Tensor

    @classmethod
    def init(cls, view: View, voc: int, d: int, /, **partitions: AxisPartition) -> Embedding:
        """Declares `weight` [voc, d]: `Embedding.init(view.prefix("embed_tokens"), 32000, 4096, voc="model")`."""
        return cls(view.tensor("weight", {"voc": voc, "d": d}).partitioned(**partitions))

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens {..} (integers) -> {.., d}. A token outside the vocabulary counts as the nearest end of it."""
        clash = [tag for tag in tokens.tags if tag in self.weight.tags]
        if clash:
            raise ShapeError(
                f"Embedding: the tokens {tokens.shape} have the axes {clash} of the table {self.weight.shape}; "
                "rename() them"
            )
        return self.weight.gather(voc=tokens)

    def attend(self, x: Tensor) -> Tensor:
        """The logits {.., voc}, in f32, of hidden states {.., d}: an output layer tied to the embeddings."""
        return project(x, Linear(self.weight, None, ("d",)), dtype="f32")[0]
