"""Attention by native code on the CPU: see zml/kernels/cpu/native/attention.h.

A decode step reads the visible part of the cache once, where it lies and for all heads that share it. A prompt is done
block by block: there is no matrix of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from zml.attention import shards
from zml.attention.base import Availability, Call, Metadata, Parameters, Platform
from zml.kernels.cpu import library
from zml.shape import Shape
from zml.tensor import Tensor

_TYPES = ("f32", "bf16", "f16")
_LETTERS = {"q": "r", "k": "r", "h": "h", "hd": "d"}
"""What the handler calls the axes: rows of queries or of keys. Any other is b, the sequences."""


def is_available(platform: Platform) -> Availability:
    """On the CPU, where the native library is."""
    if str(platform.target) != "cpu":
        return Availability(f"it is for the CPU, not for {platform.target}")
    # A platform knows whether its programs may call native code: a plugin's may not.
    if not getattr(platform, "has_kernels", True):
        return Availability("this platform calls no native kernels")
    return _library()


def supports(_q: Shape, _k: Shape, _parameters: Parameters) -> Availability:
    """Everything, where the native library is. Element types that it does not read are converted first."""
    return _library()


def _library() -> Availability:
    found = library.load()
    return Availability(found.reason if isinstance(found, library.Missing) else None)


def metadata(_q: Shape, _k: Shape, _parameters: Parameters) -> Metadata:
    """It has no scratch."""
    return Metadata()


def attend(call: Call, metadata: Metadata) -> Tensor:
    """See `Attention.__call__`."""
    q, k, v = call.q, call.k, call.v
    if q.dtype not in _TYPES:
        return attend(replace(call, q=q.convert("f32")), metadata).convert(q.dtype)
    if k.dtype not in _TYPES or v.dtype != k.dtype:
        k, v = k.convert(q.dtype), v.convert(q.dtype)
    return shards.attend(replace(call, k=k, v=v), _run)


def _run(xs: Sequence[Tensor], parameters: Parameters) -> Tensor:
    """The native call."""
    q, k, v, start, lengths = xs
    dims = [v.dim(tag) if tag == "hd" else dim for tag, dim in q.shape.items()]
    native = jax.ffi.ffi_call(
        "zml_cpu_attention", jax.ShapeDtypeStruct(dims, q.dtype.numpy), vmap_method="sequential"
    )
    result = native(
        q.value, k.value, v.value, start.value.reshape(-1), lengths.value.reshape(-1),
        q_axes=_letters(q), k_axes=_letters(k), causal=parameters.causal,
        window=np.int64(parameters.window or 0), softcap=np.float32(parameters.softcap or 0),
        scale=np.float32(parameters.scale_for(q.dim("hd"))),
    )  # fmt: skip
    return q.derive(result)


def _letters(x: Tensor) -> str:
    return "".join(_LETTERS.get(tag, "b") for tag in x.tags)
