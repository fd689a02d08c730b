"""XLA's partitioners: what turns a program for one large device into one for many."""

import enum
from contextlib import AbstractContextManager

from zml.pjrt import partitioner


class Partitioner(enum.Enum):
    """Who decides how the values inside a program are cut."""

    SHARDY = "shardy"
    """XLA's own and jax's default: works on the axes of the mesh."""
    GSPMD = "gspmd"
    """Its predecessor, for targets whose compiler lacks Shardy (Neuron). XLA logs that it will be removed."""


def partitioned_by(choice: Partitioner) -> AbstractContextManager[None]:
    """Programs that are lowered and compiled in this context, in this thread, use that partitioner."""
    return partitioner.shardy(choice is Partitioner.SHARDY)
