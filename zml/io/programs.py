"""The programs of recipes, each compiled once, and the order in which they run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from zml.buffer import Buffer
from zml.declared import Derived, Recipe
from zml.errors import ShapeError, ShardingError
from zml.io.recipes import evaluate, identity, name_of, sources_once
from zml.shape import OPEN, REPLICATED, Shape
from zml.sharding import Sharding, select
from zml.tensor import Tensor


class Compiler(Protocol):
    """What compiles: a Platform."""

    def sharding_for(self, shape: Shape, sharding: Sharding | None = None) -> Sharding:
        """The sharding that places a shape."""

    def compile(
        self,
        fn: Callable[..., Any],
        *args: Any,
        shardings: Sequence[Sharding] | None = None,
        name: str | None = None,
    ) -> Callable[..., Any]:
        """A program."""


@dataclass(frozen=True)
class Needed:
    """A stored tensor that is to be loaded for a making, and where its Buffer is expected."""

    tensor: Tensor
    sharding: Sharding


class Programs:
    """Compiled recipes, each once."""

    def __init__(self, platform: Compiler, shardings: Sequence[Sharding] | None) -> None:
        self._platform = platform
        self._shardings = shardings
        self._lock = threading.Lock()
        self._made: dict[Hashable, Future[Callable[..., Any]]] = {}

    def main(self, recipe: Recipe, wanted: Sequence[tuple[int, Tensor]]) -> Sharding:
        """The sharding of the results: a program has one order of devices."""
        closed = [t for _, t in wanted if any(isinstance(p, str) for p in t.shape.partitions)]
        found = [
            self._sharding(tensor.shape)
            for tensor in closed or [tensor for _, tensor in wanted[:1]]
        ]
        if any(sharding != found[0] for sharding in found):
            names = ", ".join(sorted({sharding.name for sharding in found}))
            raise ShardingError(
                f"tensor {recipe.name!r}: what {name_of(recipe.function)} makes is cut by several shardings ({names}); "
                "give it logical axes of one"
            )
        return found[0]

    def placed(
        self, source: Tensor, wanted: Sequence[tuple[int, Tensor]], main: Sharding
    ) -> Needed:
        """A source, cut as the results are along the axes that have the same tags and were left open."""
        shape = source.shape
        for _, tensor in wanted:
            for tag, cut in zip(tensor.shape.tags, tensor.shape.partitions, strict=True):
                if tag not in shape or shape.partition(tag) is not OPEN or not isinstance(cut, str):
                    continue
                try:
                    closer = shape.partitioned(**{tag: cut})
                    main.cuts(closer)
                except (ShardingError, ShapeError):
                    continue  # the source is small, or has other blocks there: it stays whole
                shape = closer
        sharding = main if main.covers(shape) else self._sharding(shape)
        return Needed(Tensor.declare(shape, memory=source.memory, source=source.source), sharding)

    def get(
        self,
        recipe: Recipe,
        wanted: Sequence[tuple[int, Tensor]],
        sources: Sequence[Needed],
        main: Sharding,
    ) -> Callable[..., Any]:
        """The program that gives the wanted tensors for the sources' buffers. The first who asks compiles it."""
        results = tuple((_part(tensor), tensor.shape, tensor.memory) for _, tensor in wanted)
        key = (
            identity(recipe),
            results,
            tuple((need.tensor.shape, need.tensor.memory, need.sharding) for need in sources),
        )
        with self._lock:
            future = self._made.get(key)
            if is_mine := future is None:
                future = self._made[key] = Future()
        assert future is not None
        if is_mine:
            try:
                future.set_result(self._compile(recipe, results, sources, main))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _compile(
        self,
        recipe: Recipe,
        results: Sequence[tuple[int, Shape, str | None]],
        sources: Sequence[Needed],
        main: Sharding,
    ) -> Callable[..., Any]:
        stored = sources_once(recipe)

        def program(*values: Tensor) -> tuple[Tensor, ...]:
            made = evaluate(recipe, dict(zip(stored, values, strict=True)))
            return tuple(_placed(made[part], shape, memory) for part, shape, memory in results)

        shardings = list(dict.fromkeys([main, *(need.sharding for need in sources)]))
        return self._platform.compile(
            program,
            *(need.tensor for need in sources),
            shardings=shardings,
            name=name_of(recipe.function),
        )

    def _sharding(self, shape: Shape) -> Sharding:
        if self._shardings:
            return select(self._shardings, shape)
        return self._platform.sharding_for(shape)


class Order:
    """Runs what is ready in the order of its numbers: processes that exchange data must begin programs in one order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: dict[int, Callable[[], dict[int, Buffer]]] = {}
        self._next = 0
        self._running = False

    def ready(self, number: int, make: Callable[[], dict[int, Buffer]]) -> dict[int, Buffer]:
        """Runs all whose turn it is. Nobody waits: if others are still to come, their thread runs this one."""
        with self._lock:
            self._ready[number] = make
            if self._running:
                return {}
            self._running = True
        made: dict[int, Buffer] = {}
        while True:
            with self._lock:
                run = self._ready.pop(self._next, None)
                if run is None:
                    self._running = False
                    return made
                self._next += 1
            made |= run()


@dataclass(frozen=True)
class Place:
    """A number in an order."""

    order: Order
    number: int

    def ready(self, make: Callable[[], dict[int, Buffer]]) -> dict[int, Buffer]:
        """As Order.ready."""
        return self.order.ready(self.number, make)


def _part(tensor: Tensor) -> int:
    assert isinstance(tensor.source, Derived)
    return tensor.source.part


def _placed(x: Tensor, shape: Shape, memory: str | None) -> Tensor:
    """A result where the model declares it: open axes are whole there."""
    cuts = {
        tag: REPLICATED if cut is OPEN else cut
        for tag, cut in zip(shape.tags, shape.partitions, strict=True)
    }
    x = x.partitioned(**cuts) if cuts else x
    return x if memory is None else x.in_memory(memory)
