"""View: a place in a checkpoint's names, from which a model declares its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from zml.declared import Quantized, Repeat, Source
from zml.dtypes import DType
from zml.errors import CheckpointError, ShapeError, UnsupportedError
from zml.io import dequantize
from zml.io.safetensors import STORED, Entry
from zml.io.transform import derive
from zml.kernels.cpu.formats import Format
from zml.model_tree import is_leaf, leaves
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
    quantize: str | None = None
    """The format of weights that layers declare as quantized where they can; None: none are."""
    shards: int = 1
    """How often a logical axis cuts: quantized weights are cut in whole blocks only."""

    def __post_init__(self) -> None:
        if self.quantize is not None and self.quantize not in list(Format):
            raise UnsupportedError(
                f"quantize={self.quantize!r}: expected one of {', '.join(Format)}, or None"
            )

    @staticmethod
    def blank(dtype: Any, *, quantize: str | None = None) -> View:
        """A view of no checkpoint, in which every tensor is there and of that element type."""
        return View("no checkpoint", None, DType.of(dtype), quantize=quantize)

    def over(self, shards: int) -> View:
        """The same for a model whose logical axis cuts so often."""
        return replace(self, shards=shards)

    def quantized(self, format: str | None) -> View:
        """The same with another format for quantized weights."""
        return replace(self, quantize=format)

    def prefix(self, name: str) -> View:
        """The view one level, or with dots several levels, further in."""
        return replace(self, path=self.full(name))

    def layer(self, index: int) -> View:
        """The view of a numbered part."""
        return self.prefix(str(index))

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of that name; False where there is no checkpoint."""
        return self.entries is not None and self.full(name) in self.entries

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
        full = self.full(name)
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

    def packed(
        self,
        name: str,
        rows: int,
        columns: int,
        format: str,
        /,
        *,
        times: int = 1,
        span: int = 1,
        **partitions: AxisPartition,
    ) -> tuple[Tensor, Tensor]:
        """Declares a matrix [rows, columns] that is quantized as it is loaded: its values and its scales.

        They are {rows, groups, packed} and {rows, groups, lanes}, or {rows, lanes} where a row has one scale, in blocks
        as zml.kernels.cpu.formats has them; `partitions` are of rows and groups. Each run of `span` stored rows comes
        `times` over, which `rows` counts.
        """
        f, how = Format(format), Quantized(format, times, span)
        stored = (rows // times, columns)
        declared = []
        for part, dims, dtype, last in (
            ("values", f.values_dims(rows, columns), f.values_dtype, "packed"),
            ("scales", f.scales_dims(rows, columns), f.scales_dtype, "lanes"),
        ):
            tags = ("rows", "groups")[: len(dims) - 1]
            cuts = {tag: cut for tag, cut in partitions.items() if tag in tags}
            shape = Shape(dict(zip((*tags, last), dims, strict=True)), dtype, cuts)
            source = Source(self.full(name), stored, quantized=how, part=part)
            declared.append(Tensor.declare(shape, source=source))
        return declared[0], declared[1]

    def derived(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *arguments: Tensor,
        **partitions: AxisPartition,
    ) -> Any:
        """Declares what a function makes of stored tensors while they are loaded: `view.derived("qkv", fuse, q, k, v)`.

        `function` takes Tensors like `arguments`, which are declared by this or another view, and gives a Tensor or a
        pytree of them; the same is returned here, declared. It becomes a program for the devices, one for all layers
        whose shapes are equal; the arguments are in memory only until it has run. `name` is what messages call the
        result, and `partitions` cut it, or each result that has these tags. Arguments that leave an axis of the same
        tag open are cut likewise where they can be.

        An argument may be what another function makes. Raises ShapeError for arguments that are not of a checkpoint,
        and what `function` raises, with the names of both.
        """
        full = self.full(name)
        made = derive(full, function, arguments)
        known = {tag for leaf in leaves(made) for tag in leaf.tags}
        if unknown := [tag for tag in partitions if tag not in known]:
            raise ShapeError(
                f"{full}: there is no axis {unknown[0]!r} to cut; its tags are {sorted(known)}"
            )

        def cut(leaf: Tensor) -> Tensor:
            mine = {tag: to for tag, to in partitions.items() if tag in leaf.tags}
            return leaf.partitioned(**mine) if mine else leaf

        return jax.tree.map(cut, made, is_leaf=is_leaf)

    def dequantized(
        self,
        name: str,
        dims: Mapping[str, int],
        /,
        *,
        stored: Sequence[int] | None = None,
        repeat: Repeat | None = None,
        block: tuple[int, int] = (128, 128),
        **partitions: AxisPartition,
    ) -> Tensor:
        """Declares a matrix that may be stored in 8-bit floats, with scales beside it: NAME_scale_inv or NAME_scale.

        There is one scale, one for each row, or one for each `block` of rows and columns: the shape of the scales says
        which. The product is made on the devices, in the view's type or bf16. What has no scales in the checkpoint is
        declared as by `tensor`. Raises CheckpointError for scales of another shape.
        """
        return dequantize.declare(self, name, dims, stored, repeat, block, partitions)

    def entry(self, name: str) -> Entry | None:
        """What the checkpoint says of a tensor; None if it is not there."""
        return None if self.entries is None else self.entries.get(self.full(name))

    def full(self, name: str) -> str:
        """The name in the checkpoint of what has that name here."""
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
