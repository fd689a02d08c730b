"""The strategy: which physical axes a logical axis is cut over."""

from collections.abc import Sequence
from dataclasses import dataclass

from zml.errors import ShardingError
from zml.sharding.logical import Intent, LogicalMesh
from zml.sharding.physical import PhysicalMesh


@dataclass(frozen=True, init=False)
class Strategy:
    """`Strategy(model=("link", "link_x"), data="bus", expert=())` binds logical axes to physical ones.

    Several physical axes are a fold: one logical axis as large as their product, where the first named changes slowest.
    They need not be neighbours in the tree. An empty binding cuts nothing. No physical axis may be bound twice.
    """

    bindings: tuple[tuple[str, tuple[str, ...]], ...]

    def __init__(self, **axes: str | Sequence[str]) -> None:
        bindings = {name: (to,) if isinstance(to, str) else tuple(to) for name, to in axes.items()}
        owner: dict[str, str] = {}
        for logical, physical in bindings.items():
            for axis in physical:
                if axis in owner:
                    raise ShardingError(
                        f"the physical axis {axis!r} is bound twice, to {owner[axis]!r} and {logical!r}; "
                        "bind one of them to another axis, or to () to leave it whole"
                    )
                owner[axis] = logical
        object.__setattr__(self, "bindings", tuple(bindings.items()))

    @staticmethod
    def suggest(logical: LogicalMesh, physical: PhysicalMesh) -> "Strategy":
        """Binds each logical axis to one physical axis that suits its intent.

        With the n axes sorted fastest first, the i-th axis of an intent takes number i mod n (high bandwidth),
        (n/2 + i) mod n (balanced) or n - 1 - (i mod n) (low bandwidth). With few physical axes, logical ones share: a
        shape that is cut over both is cut over the one that the logical mesh names first, and whole along the other.
        """
        available = physical.fastest_first
        n = len(available)
        seen = dict.fromkeys(Intent, 0)
        bindings: dict[str, tuple[str, ...]] = {}
        for name, intent in logical.axes:
            i = seen[intent]
            seen[intent] += 1
            at = {
                Intent.HIGH_BANDWIDTH: i % n,
                Intent.BALANCED: (n // 2 + i) % n,
                Intent.LOW_BANDWIDTH: n - 1 - i % n,
            }
            bindings[name] = (available[at[intent]],)
        # Past __init__, which refuses what is meant here: that logical axes share.
        strategy = object.__new__(Strategy)
        object.__setattr__(strategy, "bindings", tuple(bindings.items()))
        return strategy

    def check(self, logical: LogicalMesh, physical: PhysicalMesh) -> None:
        """Raises ShardingError unless it binds each axis of `logical`, and no other, to axes of `physical`."""
        bound = dict(self.bindings)
        for name in logical.names:
            if name not in bound:
                raise ShardingError(
                    f"{self} does not bind the axis {name!r} of {logical}; bind it to one of "
                    f"{', '.join(physical.sizes)}, or to () to leave it whole"
                )
        for name, axes in self.bindings:
            if name not in logical.names:
                raise ShardingError(
                    f"{self} binds {name!r}, which is no axis of {logical}; add it there with an intent, "
                    f"or drop the binding"
                )
            for axis in axes:
                if axis not in physical.sizes:
                    raise ShardingError(
                        f"{self} binds {name!r} to {axis!r}, which the physical mesh lacks; its axes are "
                        f"{', '.join(map(str, physical.axes))}"
                    )

    def __str__(self) -> str:
        parts = [f"{name}={'+'.join(axes) or '()'}" for name, axes in self.bindings]
        return f"Strategy({', '.join(parts)})"
