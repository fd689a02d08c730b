"""Layers as `@zml.model` dataclasses of tensors: each declares itself from a view of a checkpoint, and is called."""

from zml.nn.linear import Embedding, Linear, project
from zml.nn.mlp import ACTIVATIONS, Mlp
from zml.nn.norm import LayerNorm, RmsNorm
from zml.nn.quantized import QuantizedWeight
from zml.nn.rope import Layout, Rope
from zml.nn.sampling import SamplingParameters, TokenCounts, sample

__all__ = [
    "ACTIVATIONS",
    "Embedding",
    "LayerNorm",
    "Layout",
    "Linear",
    "Mlp",
    "QuantizedWeight",
    "RmsNorm",
    "Rope",
    "SamplingParameters",
    "TokenCounts",
    "project",
    "sample",
]
