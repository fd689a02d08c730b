"""What sets one golden checkpoint apart from another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One checkpoint: config.json's entries over the architecture's, and which files it has.

    A name that ends in `_early` stands for config.json in the spelling before transformers 5.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    shards: int = 1
    tokenizer: bool = False

    @property
    def is_early(self) -> bool:
        """Whether config.json is spelt as before transformers 5."""
        return self.name.endswith("_early")


@dataclass(frozen=True)
class Architecture:
    """A folder of tests/golden: what its variants share.

    `base` and `early` are config.json's entries in today's spelling and in the one before transformers 5.
    `completed` says that transformers writes today's spelling itself, with every default; an early one
    is always written as it stands here, as files on the hub are. `norm_offsets` is added to the random weights of
    the norms whose names end so.
    """

    name: str
    base: Mapping[str, Any]
    early: Mapping[str, Any]
    variants: Sequence[Variant]
    completed: bool = True
    norm_offsets: Mapping[str, float] = field(default_factory=dict)

    def entries(self, variant: Variant) -> dict[str, Any]:
        """config.json's entries for one of the variants."""
        return {**(self.early if variant.is_early else self.base), **variant.config}
