"""The logical mesh: the names that models cut their axes over, and what each asks of the wires."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from zml.errors import ShardingError
from zml.sharding.physical import AXES


class Intent(enum.Enum):
    """What a logical axis needs of the devices that it is cut over."""

    HIGH_BANDWIDTH = "high_bandwidth"
    """Talks in every layer: tensor parallelism, all-reduces of activations."""
    BALANCED = "balanced"
    """Talks now and then: experts, sequence."""
    LOW_BANDWIDTH = "low_bandwidth"
    """Hardly talks: the batch."""


HIGH_BANDWIDTH = Intent.HIGH_BANDWIDTH
BALANCED = Intent.BALANCED
LOW_BANDWIDTH = Intent.LOW_BANDWIDTH


@dataclass(frozen=True, init=False)
class LogicalMesh:
    """`LogicalMesh(model=HIGH_BANDWIDTH, data=LOW_BANDWIDTH)`: names with an intent. Sizes come from the devices."""

    axes: tuple[tuple[str, Intent], ...]

    def __init__(self, **axes: Intent) -> None:
        if not axes:
            raise ShardingError(
                "a logical mesh without axes; name one: LogicalMesh(model=HIGH_BANDWIDTH)"
            )
        for name, intent in axes.items():
            if name in AXES:
                raise ShardingError(
                    f"logical axis {name!r} has the name of a physical axis; call it otherwise"
                )
            if not isinstance(intent, Intent):
                raise ShardingError(
                    f"logical axis {name!r} has the intent {intent!r}; expected one of "
                    f"{', '.join(i.name for i in Intent)} (sizes come from the devices)"
                )
        object.__setattr__(self, "axes", tuple(axes.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the axes, in the order given."""
        return tuple(name for name, _ in self.axes)

    @property
    def intents(self) -> Mapping[str, Intent]:
        """What each axis asks for."""
        return dict(self.axes)

    def __str__(self) -> str:
        return f"LogicalMesh({', '.join(f'{name}={intent.value}' for name, intent in self.axes)})"
