"""Tokens drawn from logits by native code: see zml/kernels/cpu/native/sample.h."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def sample(
    logits: jax.Array, counts: tuple[jax.Array, jax.Array] | None, *parameters: jax.Array
) -> jax.Array:
    """Tokens [rows] (i32) of logits [rows, voc] (f32), as `zml.nn.sample` says.

    counts: those of the prompt (bool) and the generated ones (i32), of the logits' shape; None: no penalties.
    parameters: temperature, top_k, top_p, min_p, repetition, presence and frequency penalty, seed, position; each
    [rows], of the types that `zml.nn.sampling.FIELDS` has, position i32.
    """
    if counts is None:
        counts = jnp.zeros(0, np.bool), jnp.zeros(0, np.int32)
    native = jax.ffi.ffi_call(
        "zml_cpu_sample", jax.ShapeDtypeStruct(logits.shape[:1], np.int32), vmap_method="sequential"
    )
    # A token has no derivative.
    operands = jax.lax.stop_gradient((logits, *counts, *parameters))
    return native(*operands)
