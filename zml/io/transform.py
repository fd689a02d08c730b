"""Tensors that are made of stored ones while they are loaded, by programs that are compiled for the devices.

A recipe's stored tensors are its sources. They are loaded as Buffers, the program runs, and they are dropped. The same
function of the same shapes is compiled once, however many layers it is used for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from zml.buffer import Buffer
from zml.declared import Derived, Recipe
from zml.io.programs import Compiler, Needed, Order, Place, Programs
from zml.io.recipes import (
    Stored,
    derive,
    failed,
    function_identity,
    sources_of,
    sources_once,
    stored_sources,
)
from zml.sharding import Sharding
from zml.tensor import Tensor

__all__ = [
    "WORTH_SHARING", "Compiler", "Making", "Needed", "derive", "function_identity", "plan", "sources_of",
    "stored_sources",
]  # fmt: skip

WORTH_SHARING = 1 << 20
"""In bytes: recipes that share a source are made together, so that it is read once; smaller ones are read again."""


class Making:
    """Some of a model's tensors, and the sources that are loaded for them. Sources may come from any thread."""

    def __init__(
        self, programs: Programs, recipes: Mapping[Recipe, Sequence[tuple[int, Tensor]]]
    ) -> None:
        """`recipes`: for each, the tensors that are wanted of it, with their numbers in the model."""
        self._programs = programs
        self._wanted = dict(recipes)
        self._main = {recipe: programs.main(recipe, wanted) for recipe, wanted in recipes.items()}
        self._keys: list[Stored] = []
        self._sources: list[Needed] = []
        for recipe, wanted in recipes.items():
            main = self._main[recipe]
            for stored in sources_once(recipe):
                if stored not in self._keys:
                    self._keys.append(stored)
                    self._sources.append(programs.placed(stored.tensor, wanted, main))
        self._lock = threading.Lock()
        self._buffers: dict[Stored, Buffer] = {}
        self.order: Place | None = None
        """Its place among those that run one after another; None: it runs when its sources are there."""

    @property
    def spans_processes(self) -> bool:
        """Whether its programs run in several processes."""
        mains = self._main.values()
        return any(len({device.process for device in main.devices}) > 1 for main in mains)

    @property
    def sources(self) -> tuple[Needed, ...]:
        """What is to be loaded."""
        return tuple(self._sources)

    @property
    def indices(self) -> tuple[int, ...]:
        """The numbers of the tensors that are made."""
        return tuple(index for wanted in self._wanted.values() for index, _ in wanted)

    def deliver(self, number: int, buffer: Buffer) -> dict[int, Buffer]:
        """Takes the Buffer of a source; with the last one, makes the tensors: Buffers by their numbers in the model.

        They are there when this returns, and the sources are dropped. Where several processes form the platform, the
        makings run in the order of the plan: this may be later, and the result be of other makings. Raises what the
        function, the compiler or the devices raise, with the names of the tensor and of the function.
        """
        with self._lock:
            self._buffers[self._keys[number]] = buffer
            del buffer
            if len(self._buffers) < len(self._keys):
                return {}
        return self._make() if self.order is None else self.order.ready(self._make)

    def _make(self) -> dict[int, Buffer]:
        buffers, self._buffers = self._buffers, {}
        made: dict[int, Buffer] = {}
        recipes = list(self._wanted.items())
        for at, (recipe, wanted) in enumerate(recipes):
            mine = sources_once(recipe)
            placed = {s: self._sources[self._keys.index(s)] for s in mine}
            try:
                run = self._programs.get(
                    recipe, wanted, [placed[s] for s in mine], self._main[recipe]
                )
                results = run(*(buffers[s] for s in mine))
                for (index, tensor), result in zip(wanted, results, strict=True):
                    made[index] = Buffer(result.wait().array, tensor.shape)
            except Exception as error:
                raise failed(recipe, error) from error
            later = {s for other, _ in recipes[at + 1 :] for s in sources_once(other)}
            buffers = {s: buffer for s, buffer in buffers.items() if s in later}
        return made


def plan(
    declared: Sequence[Tensor], platform: Compiler, shardings: Sequence[Sharding] | None = None
) -> list[Making]:
    """What is to be made of a model's tensors: those that come from recipes. The others are loaded as they are.

    Raises ShardingError for tensors and sources that no sharding fits.
    """
    wanted: dict[Recipe, list[tuple[int, Tensor]]] = {}
    for index, tensor in enumerate(declared):
        if isinstance(tensor.source, Derived):
            wanted.setdefault(tensor.source.recipe, []).append((index, tensor))
    programs = Programs(platform, shardings)
    groups: list[dict[Recipe, Sequence[tuple[int, Tensor]]]] = []
    group_of: dict[Stored, dict[Recipe, Sequence[tuple[int, Tensor]]]] = {}
    for recipe, tensors in wanted.items():
        large = [s for s in sources_once(recipe) if s.tensor.shape.byte_size >= WORTH_SHARING]
        joined: dict[Recipe, Sequence[tuple[int, Tensor]]] = {}
        for group in {id(group_of[s]): group_of[s] for s in large if s in group_of}.values():
            joined |= group
            groups = [other for other in groups if other is not group]
        joined[recipe] = tensors
        groups.append(joined)
        for other in joined:
            group_of |= dict.fromkeys(sources_once(other), joined)
    makings = [Making(programs, group) for group in groups]
    if any(making.spans_processes for making in makings):
        order = Order()
        for number, making in enumerate(makings):
            making.order = Place(order, number)
    return makings
