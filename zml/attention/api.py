"""`attention(q, k, v, ...)`, and the choice of the backend that computes it.

A model takes an `Attention` as an argument, calls it, and knows no backend. The engine makes one:
`Attention.using(Backend.auto(platform))`. It is static data but for its scratch, and a pytree.
"""

from __future__ import annotations

import enum
import importlib
from typing import cast

from zml.attention.base import (
    Availability,
    Call,
    Implementation,
    Metadata,
    Parameters,
    Platform,
)
from zml.errors import ShapeError, UnsupportedError
from zml.model_tree import model, static
from zml.tensor import Tensor


class Backend(enum.StrEnum):
    """The backends, special ones first: `auto` takes the first that is available."""

    CUDA_FA3 = "cuda_fa3"
    CUDA_FA2 = "cuda_fa2"
    MOSAIC_TPU = "mosaic_tpu"
    NKI = "nki"
    CPU_FLASH = "cpu_flash"
    VANILLA = "vanilla"

    @staticmethod
    def of(name: str) -> Backend:
        """The backend of a name. Raises UnsupportedError for one that is unknown or not in this build."""
        if name not in _MODULES:
            known = "is not in this build" if name in list(Backend) else "is unknown"
            raise UnsupportedError(
                f"attention backend {str(name)!r} {known}; there is {', '.join(_MODULES)}"
            )
        return Backend(name)

    @staticmethod
    def auto(platform: Platform) -> Backend:
        """The most special backend that is available on the platform; vanilla always is."""
        return next(backend for backend in Backend if backend.is_available(platform))

    def is_available(self, platform: Platform) -> Availability:
        """True, or false with a `reason`. Something with a `target` is platform enough."""
        if self not in _MODULES:
            return Availability("not in this build")
        return self.implementation.is_available(platform)

    @property
    def implementation(self) -> Implementation:
        """The backend's module. Raises UnsupportedError where it is not in this build."""
        return cast(Implementation, importlib.import_module(_MODULES[Backend.of(self)]))


# A backend is a file and a line here.
_MODULES = {
    Backend.CUDA_FA3: "zml.attention.cuda_fa3",
    Backend.CUDA_FA2: "zml.attention.cuda_fa2",
    Backend.MOSAIC_TPU: "zml.attention.mosaic_tpu",
    Backend.CPU_FLASH: "zml.attention.cpu_flash",
    Backend.VANILLA: "zml.attention.vanilla",
}


@model
class Attention:
    """How attention is computed: the backends that may, in the order of preference, and their scratch."""

    metadata: Metadata
    backends: tuple[Backend, ...] = static(default=(Backend.VANILLA,))

    @staticmethod
    def using(*backends: Backend | str, metadata: Metadata | None = None) -> Attention:
        """The first of these that can do a call does it. Raises UnsupportedError for one that is not in this build."""
        chosen = tuple(Backend.of(backend) for backend in backends)
        return Attention(metadata or Metadata(), tuple(dict.fromkeys(chosen)) or (Backend.VANILLA,))

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        start: Tensor | int = 0,
        lengths: Tensor | int | None = None,
        causal: bool = True,
        window: int | None = None,
        softcap: float | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """softmax(q.k) v (Vaswani et al., arXiv:1706.03762), with scores and softmax in f32.

        q {q, h, hd}, k and v {k, h, hd}, in any order of axes; the result is like q, with the hd of v. Other tags are
        batch axes: those of k and v are equal, and among those of q. Heads of q share those of k in groups that follow
        one another (GQA, Ainslie et al., arXiv:2305.13245); h of q is a multiple of that of k. Keys and values of
        another float type (that of the cache) are converted to that of q.

        Keys stand at positions 0, 1, ..., queries at `start`, start + 1, .... Of the keys the first `lengths` are
        there, all without it. Both are numbers, or integer tensors with batch tags. `causal`, `window`, `softcap` and
        `scale` are those of `Parameters`. A query that sees no key gives 0, where `lengths` is given.

        What a query does not see does not matter to it, even where it is NaN or infinite: a cache may hold anything
        behind its valid part. What it does see and is NaN makes it NaN.

        Raises ShapeError for shapes that do not fit, UnsupportedError where no backend can do it.
        """
        parameters = Parameters(causal, window, softcap, scale)
        _check(q, k, v)
        for name, number in (("start", start), ("lengths", lengths)):
            _check_number(name, number, q)
        reasons = []
        for backend in self.backends:
            implementation = backend.implementation
            verdict = implementation.supports(q.shape, k.shape, parameters)
            if verdict:
                call = Call(q, k, v, start, lengths, parameters)
                return implementation.attend(call, self.metadata).transpose(*q.tags)
            reasons.append(f"{backend}: {verdict.reason}")
        raise UnsupportedError(
            f"attention: no backend takes q {q.shape}, k {k.shape} and {parameters}; {'; '.join(reasons)}"
        )


attention = Attention(Metadata())
"""The reference: attention by the vanilla backend."""


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    given = f"given q {q.shape}, k {k.shape}, v {v.shape}"
    own = {"q": ("q", "h", "hd"), "k": ("k", "h", "hd"), "v": ("k", "h", "hd")}
    for name, x in (("q", q), ("k", k), ("v", v)):
        missing = [tag for tag in own[name] if tag not in x.tags]
        if missing:
            raise ShapeError(
                f"attention: {name} has no axis {missing[0]!r}; {given}; rename() its axes"
            )
        if x.dtype.kind != "float":
            raise ShapeError(f"attention: {name} has no float elements; {given}; convert() them")
    if "k" in q.tags or "q" in k.tags or "q" in v.tags:
        raise ShapeError(
            f"attention: q has an axis 'k', or k or v an axis 'q'; {given}; rename() it"
        )
    if set(k.tags) != set(v.tags) or any(t not in q.tags for t in k.tags if t != "k"):
        raise ShapeError(
            f"attention: the batch axes differ; {given}; those of k and v are the same, and among those of q"
        )
    for tag in k.tags:
        if (tag != "hd" and k.dim(tag) != v.dim(tag)) or (
            tag not in ("h", "k") and k.dim(tag) != q.dim(tag)
        ):
            raise ShapeError(f"attention: the dims of {tag!r} differ; {given}; they must be equal")
    if not k.dim("h") or q.dim("h") % k.dim("h"):
        raise ShapeError(
            f"attention: {q.dim('h')} query heads do not make equal groups for {k.dim('h')} heads of keys; {given}; "
            "the one is a multiple of the other"
        )


def _check_number(name: str, number: Tensor | int | None, q: Tensor) -> None:
    if isinstance(number, Tensor):
        fits = number.dtype.kind == "int" and all(
            t in q.tags and t not in ("q", "h", "hd") and number.dim(t) == q.dim(t)
            for t in number.tags
        )
        if not fits:
            raise ShapeError(
                f"attention: {name} is {number.shape}, expected integers of rank 0 or with batch axes of q {q.shape}"
            )
    elif number is not None and number < 0:
        raise ShapeError(f"attention: {name} is {number}, expected 0 or more")
