"""Weights in int8 and int4: quantized as they are loaded, and multiplied without being widened in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zml import log
from zml.declared import Repeat
from zml.dtypes import DType
from zml.io.view import View
from zml.kernels.cpu.formats import BLOCK, GROUP, Format, Packed, dequantize
from zml.model_tree import model, static
from zml.shape import OPEN, REPLICATED, AxisPartition, Shape
from zml.tensor import Tensor

_LOG = log.get("nn")

type Dims = tuple[tuple[str, int], ...]


@model
class QuantizedWeight:
    """The matrix of a linear layer, its numbers packed in blocks of 16 rows and groups of 32 columns, and their scales.

    The rows are the elements of the result's axes, the columns those of the axes that are summed over, major to minor.
    A device may have some of the blocks or of the groups.
    """

    values: Tensor
    scales: Tensor
    format: Format = static()
    all_out: Dims = static()
    """The axes of the result in the whole weight."""
    all_inner: Dims = static()
    """The axes summed over in the whole weight."""

    @staticmethod
    def suits(view: View, inner: Mapping[str, int]) -> bool:
        """Whether a layer of the view is to be quantized: one that sums over too little would gain nothing."""
        return view.quantize is not None and math.prod(inner.values()) >= GROUP

    @classmethod
    def init(
        cls,
        view: View,
        name: str,
        out: Mapping[str, int],
        inner: Mapping[str, int],
        *,
        repeat: Repeat | None = None,
        **partitions: AxisPartition,
    ) -> QuantizedWeight:
        """Declares a matrix stored as [prod(out), prod(inner)], in the format of the view.

        Blocks are cut where `partitions` cut the first axis of `out`, groups where they cut the first of `inner`; each
        of the view's shards must then have whole ones. Else every device has all of the weight.
        """
        format = Format(view.quantize or "")
        rows, columns = math.prod(out.values()), math.prod(inner.values())
        cuts: dict[str, AxisPartition] = {}
        for side, tag, size, unit in (
            (out, "rows", rows, BLOCK),
            (inner, "groups", columns, GROUP),
        ):
            first, *others = side
            cuts[tag] = partitions.get(first, OPEN)
            closed = [axis for axis in side if isinstance(partitions.get(axis), str)]
            whole = size % (unit * view.shards) == 0 and (tag == "rows" or format != "int8_channel")
            if closed and (any(axis in others for axis in closed) or not whole):
                _LOG.debug(
                    "%s: %s of %d cannot be cut over %s in %d parts of whole blocks of %d: every device has all",
                    view.path, tag, size, ", ".join(closed), view.shards, unit,
                )  # fmt: skip
                cuts[tag] = REPLICATED
        times, span = 1, 1
        if repeat is not None:
            axes = list(out)
            times, span = (
                repeat.times,
                math.prod(out[t] for t in axes[axes.index(repeat.tag) + 1 :]),
            )
        values, scales = view.packed(name, rows, columns, format, times=times, span=span, **cuts)
        return cls(values, scales, format, tuple(out.items()), tuple(inner.items()))

    @property
    def out(self) -> dict[str, int]:
        """The axes of the result, of the part of the weight that is here."""
        return _part(self.all_out, self.values.dim("rows"), BLOCK)

    @property
    def inner(self) -> dict[str, int]:
        """The axes summed over, of the part of the weight that is here."""
        return _part(self.all_inner, self.values.dim("groups"), GROUP)

    @property
    def shape(self) -> Shape:
        """The shape of the weight that it stands for, with the scales' element type."""
        blocks = self.values.shape
        cuts = {
            self.all_out[0][0]: blocks.partition("rows"),
            self.all_inner[0][0]: blocks.partition("groups"),
        }
        return Shape(self.out | self.inner, self.scales.dtype, cuts)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the weight that it stands for."""
        return tuple(tag for tag, _ in self.all_out + self.all_inner)

    def dim(self, tag: str) -> int:
        """The size of an axis of the weight that it stands for."""
        return self.shape.dim(tag)

    @property
    def packed(self) -> Packed:
        """The arrays as a matrix."""
        rows, columns = math.prod(self.out.values()), math.prod(self.inner.values())
        return Packed(self.values.value, self.scales.value, rows, columns, self.format)

    def dense(self, dtype: Any) -> Tensor:
        """The weight {out, inner}, rounded to `dtype`."""
        shape = self.shape
        wide = dequantize(self.packed, DType.of(dtype).numpy)
        cuts = dict(zip(shape.tags, shape.partitions, strict=True))
        return Tensor(wide.reshape(shape.dims), shape.tags).partitioned(**cuts)


def _part(whole: Dims, units: int, unit: int) -> dict[str, int]:
    """The axes of a part that has so many blocks or groups; only the first is ever cut."""
    (first, size), *rest = whole
    cut = -(-math.prod(dim for _, dim in whole) // unit) // max(1, units)
    return {first: size // max(1, cut), **dict(rest)}
