"""View: a place in a checkpoint's names, from which a model declares its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zml.declared import Repeat, Source
from zml.dtypes import DType
from zml.errors import CheckpointError, ShapeError
from zml.io.safetensors import STORED, Entry
from zml.shape import AxisPartition, Shape
from zml.tensor import Tensor


@dataclass(frozen=True)
class View:
    """`store.view().prefix("model.layers").layer(3)` stands at `model.layers.3`.

    Nothing is read but the headers, which are here already. Without a checkpoint (`View.blank`) a model can be declared
    too: to be trained, or compiled only. `dtype` is what tensors are declared in; None: as they are stored.
    """

    where: str
    entries: Mapping[str, Entry] | None
    dtype: DType | None
    path: str = ""

    @staticmethod
    def blank(dtype: Any) -> View:
        """A view of no checkpoint, in which every tensor is there and of that element type."""
        return View("no checkpoint", None, DType.of(dtype))

    def prefix(self, name: str) -> View:
        """The view one level, or with dots several levels, further in."""
        return View(self.where, self.entries, self.dtype, self._full(name))

    def layer(self, index: int) -> View:
        """The view of a numbered part."""
        return self.prefix(str(index))

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of that name; False where there is no checkpoint."""
        return self.entries is not None and self._full(name) in self.entries

    def tensor(
        self,
        name: str,
        dims: Mapping[str, int] | Sequence[str],
        /,
        *,
        stored: Sequence[int] | None = None,
        repeat: Repeat | None = None,
        dtype: Any = None,
        **partitions: AxisPartition,
    ) -> Tensor:
        """Declares a tensor: `view.tensor("weight", {"dout": 4096, "d": 1024}, dout="model")`.

        Tags alone, `("dout", "d")`, take the dims from the checkpoint. `stored` is the shape there where it is another
        (as many elements in the same order, before the repeats of `repeat`); `dtype` goes over the view's. What the
        checkpoint lacks, or has in another shape or type, is reported when it is checked or loaded, all of it in one
        error; with tags alone at once. Raises ShapeError for a `stored` or a `repeat` that does not fit the dims.
        """
        full = self._full(name)
        entry = None if self.entries is None else self.entries.get(full)
        if not isinstance(dims, Mapping):
            dims = self._dims(full, entry, tuple(dims))
        dtype = dtype or self.dtype or (STORED.get(entry.dtype) if entry else None)
        # A tensor that is missing is declared all the same, so that all that are missing can be named together.
        shape = Shape(dims, dtype or DType.F32, partitions)
        once = shape.dims if repeat is None else tuple(repeat.once(full, dims).values())
        stored = tuple(once if stored is None else stored)
        if math.prod(stored) != math.prod(once):
            raise ShapeError(
                f"{full}: {shape} cannot be made from {list(stored)}: {math.prod(once)} elements are declared, "
                f"{math.prod(stored)} are stored"
            )
        return Tensor.declare(shape, source=Source(full, stored, repeat))

    def _full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _dims(self, full: str, entry: Entry | None, tags: tuple[str, ...]) -> dict[str, int]:
        if entry is None:
            raise CheckpointError(
                f"{self.where}: there is no tensor {full!r} to take the dims of {list(tags)} from; "
                "check the name, or give the dims"
            )
        if len(tags) != len(entry.shape):
            raise CheckpointError(
                f"{self.where}: {full!r} is {list(entry.shape)}, which cannot have the tags {list(tags)}; "
                "give one tag for each axis"
            )
        return dict(zip(tags, entry.shape, strict=True))
