"""The dense layers of a decoder: linear, RMS norm, activations."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from zml.tree import pytree

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}
"""The names that `hidden_act` of a config.json takes."""


@pytree
class Linear[T]:
    """y = x W^T + b, with W [out, in] as checkpoints store it, b [out] or None."""

    weight: T
    bias: T | None = None

    def __call__(self: "Linear[jax.Array]", x: jax.Array) -> jax.Array:
        """Applies it to the last axis of x [..., in]."""
        y = jnp.einsum("...i,oi->...o", x, self.weight)
        return y if self.bias is None else y + self.bias


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """RMS norm over the last axis (Zhang & Sennrich, arXiv:1910.07467), computed in float32, in the dtype of x."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return weight * wide.astype(x.dtype)
