"""The kinds of accelerator that zml runs on."""

import enum
from typing import Any

from zml.errors import UsageError


class Target(enum.StrEnum):
    """A kind of accelerator. It equals its name: `Target.CUDA == "cuda"`."""

    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"
    TPU = "tpu"
    NEURON = "neuron"

    @staticmethod
    def of(value: Any) -> "Target":
        """The target of that name. Raises UsageError if there is none."""
        try:
            return Target(value)
        except ValueError:
            raise UsageError(
                f"{value!r} is not a platform; expected one of {', '.join(Target)}, or take Platform.auto()"
            ) from None
