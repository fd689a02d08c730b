"""What an attention backend is, and how it is called.

A backend is a module of this folder with the names of `Implementation`, and one line in `zml.attention.api`.
`zml.testing.attention` holds the suite that each must pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from zml.errors import UsageError
from zml.model_tree import model
from zml.shape import Shape
from zml.tensor import Tensor


class Platform(Protocol):
    """What a backend is told of the platform."""

    @property
    def target(self) -> Any:
        """A zml.Target, or its name."""


@dataclass(frozen=True)
class Availability:
    """Whether something can be used: true, or false with a reason."""

    reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class Parameters:
    """The kind of attention, part of the program. Raises UsageError for values that have no meaning.

    Query i (its position in the sequence) sees key j if j <= i where `causal`, and |i - j| < `window` where there is
    one. A score is q.k * `scale` (None: 1 / sqrt(head dim)); with `softcap` it becomes softcap * tanh(score / softcap).
    """

    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise UsageError(
                f"attention: window is {self.window}, expected None, or 1 or more keys"
            )
        # Written so that NaN fails.
        if self.softcap is not None and not self.softcap > 0:
            raise UsageError(
                f"attention: softcap is {self.softcap}, expected None or a number above 0"
            )

    @property
    def hides(self) -> bool:
        """Whether some query may not see some key, whatever the lengths are."""
        return self.causal or self.window is not None

    def scale_for(self, head_dim: int) -> float:
        """The factor on q.k."""
        return head_dim**-0.5 if self.scale is None else self.scale


@model
class Metadata:
    """The scratch of a backend: tensors that a program is given and that belong to no sequence. Here: none."""


@dataclass(frozen=True)
class Call:
    """One call, checked: q {.., q, h, hd}, k and v {.., h, k, hd} in any order of axes.

    Other tags are batch axes; those of k are among those of q. `start` is the position of the first query, `lengths`
    how many keys there are (None: all); as tensors they are integers of rank 0 or with batch tags of q.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    start: Tensor | int
    lengths: Tensor | int | None
    parameters: Parameters


class Implementation(Protocol):
    """The names of a backend's module."""

    def is_available(self, platform: Platform, /) -> Availability:
        """Whether it runs on the platform."""

    def supports(self, q: Shape, k: Shape, parameters: Parameters, /) -> Availability:
        """Whether it can do a call of these shapes."""

    def metadata(self, q: Shape, k: Shape, parameters: Parameters, /) -> Metadata:
        """Its scratch for calls of these shapes, declared."""

    def attend(self, call: Call, metadata: Metadata, /) -> Tensor:
        """The result, with the tags of q in any order."""
