"""The shape of a tagged value: named dims, an element type, and how each axis may be cut over devices."""

import enum
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from zml.dtypes import DType
from zml.errors import ShapeError


class Partition(enum.Enum):
    """How an axis may be cut that no logical axis is named for."""

    OPEN = "open"
    """The compiler decides (the default)."""
    REPLICATED = "replicated"
    """Every device has the whole axis."""

    def __repr__(self) -> str:
        return self.name


OPEN = Partition.OPEN
REPLICATED = Partition.REPLICATED

type AxisPartition = Partition | str
"""OPEN, REPLICATED, or the logical axis (a name of a LogicalMesh) that the axis is cut over."""


@dataclass(frozen=True, init=False, repr=False)
class Shape:
    """`Shape({"s": 16, "d": 4096}, "bf16", {"d": "model"})` prints as `{s=16,d=4096/model,bf16}`.

    Dims are ordered, major to minor, and each has a tag. A replicated axis prints as `d=4096/-`. Immutable and
    hashable; shapes are equal if dims, tags, dtype and partitioning are.
    """

    dims: tuple[int, ...]
    tags: tuple[str, ...]
    dtype: DType
    partitions: tuple[AxisPartition, ...]

    def __init__(
        self,
        dims: Mapping[str, int],
        dtype: Any,
        partitions: Mapping[str, AxisPartition] | None = None,
    ) -> None:
        set_field = object.__setattr__
        set_field(self, "tags", check_tags(dims))
        set_field(self, "dims", tuple(_check_dim(tag, dim) for tag, dim in dims.items()))
        set_field(self, "dtype", DType.of(dtype))
        set_field(self, "partitions", (OPEN,) * len(self.tags))
        set_field(self, "partitions", check_partitions(self, partitions or {}))

    def __repr__(self) -> str:
        axes = [
            f"{tag}={dim}" + ("" if cut is OPEN else "/-" if cut is REPLICATED else f"/{cut}")
            for tag, dim, cut in zip(self.tags, self.dims, self.partitions, strict=True)
        ]
        return "{" + ",".join([*axes, self.dtype]) + "}"

    def __contains__(self, tag: object) -> bool:
        return tag in self.tags

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.dims)

    @property
    def count(self) -> int:
        """How many elements it has."""
        return math.prod(self.dims)

    @property
    def byte_size(self) -> int:
        """Bytes of all elements, where those of less than a byte are packed."""
        return -(-self.count * self.dtype.bits // 8)

    def axis(self, tag: str) -> int:
        """The position of the axis of that tag."""
        if tag not in self.tags:
            raise ShapeError(f"{self} has no axis {tag!r}; its tags are {list(self.tags)}")
        return self.tags.index(tag)

    def dim(self, tag: str) -> int:
        """The size of the axis of that tag."""
        return self.dims[self.axis(tag)]

    def partition(self, tag: str) -> AxisPartition:
        """How the axis of that tag may be cut."""
        return self.partitions[self.axis(tag)]

    def items(self) -> list[tuple[str, int]]:
        """(tag, dim) of each axis."""
        return list(zip(self.tags, self.dims, strict=True))

    def matches(self, other: "Shape") -> bool:
        """Whether tags (in order) and dims are equal, whatever the dtype and the partitioning."""
        return self.tags == other.tags and self.dims == other.dims

    def derive(self, dims: Mapping[str, int], dtype: Any = None) -> "Shape":
        """A shape with other dims in which an axis that is kept whole (same tag, same dim) keeps its partitioning."""
        kept = {t: self.partition(t) for t, dim in dims.items() if t in self and self.dim(t) == dim}
        return Shape(dims, dtype or self.dtype, kept)

    def partitioned(self, **partitions: AxisPartition) -> "Shape":
        """With other partitioning of the named axes: `shape.partitioned(dout="model", d=zml.shape.REPLICATED)`."""
        cuts = dict(zip(self.tags, check_partitions(self, partitions), strict=True))
        return Shape(dict(self.items()), self.dtype, cuts)

    def with_dtype(self, dtype: Any) -> "Shape":
        """With another element type."""
        return self.derive(dict(self.items()), dtype)

    def set(self, **dims: int) -> "Shape":
        """With other sizes of the named axes, which become open unless the size is the same."""
        for tag in dims:
            self.axis(tag)
        return self.derive(dict(self.items()) | dims)

    def insert(self, at: int = 0, /, **dims: int) -> "Shape":
        """With new axes before position `at`."""
        if not 0 <= at <= self.rank:
            raise ShapeError(f"insert: {self} has no position {at}; expected 0 to {self.rank}")
        for tag in dims:
            if tag in self:
                raise ShapeError(f"insert: {self} already has an axis {tag!r}")
        items = self.items()
        return self.derive(dict([*items[:at], *dims.items(), *items[at:]]))

    def remove(self, *tags: str) -> "Shape":
        """Without the named axes."""
        for tag in tags:
            self.axis(tag)
        return self.derive({tag: dim for tag, dim in self.items() if tag not in tags})

    def rename(self, **tags: str) -> "Shape":
        """With other names, `rename(old="new")`, and the partitioning of each axis."""
        for tag in tags:
            self.axis(tag)
        new = check_tags([tags.get(tag, tag) for tag in self.tags])
        cuts = dict(zip(new, self.partitions, strict=True))
        return Shape(dict(zip(new, self.dims, strict=True)), self.dtype, cuts)

    def transpose(self, *tags: str | EllipsisType) -> "Shape":
        """With the axes in that order; `...` stands for those that are not named."""
        return self.derive({tag: self.dim(tag) for tag in complete_order(self, tags)})


def check_tags(tags: Iterable[Any]) -> tuple[str, ...]:
    """The tags, if each is an identifier and none comes twice."""
    result = tuple(tags)
    for tag in result:
        if not isinstance(tag, str) or not tag.isidentifier():
            raise ShapeError(
                f"{tag!r} is not a tag; expected an identifier such as 'd' or 'head_dim'"
            )
        if result.count(tag) > 1:
            raise ShapeError(
                f"the tag {tag!r} comes twice in {list(result)}; each axis has one of its own"
            )
    return result


def check_partitions(
    shape: Shape, changes: Mapping[str, AxisPartition]
) -> tuple[AxisPartition, ...]:
    """The partitions of a shape after some changes, in which no logical axis may cut two axes."""
    cuts = dict(zip(shape.tags, shape.partitions, strict=True))
    for tag, cut in changes.items():
        shape.axis(tag)
        if not isinstance(cut, Partition) and not (isinstance(cut, str) and cut.isidentifier()):
            raise ShapeError(
                f"{cut!r} is not a partitioning of {tag!r} of {shape}; "
                "expected the name of a logical axis, OPEN or REPLICATED"
            )
        cuts[tag] = cut
    used: dict[str, str] = {}
    for tag, cut in cuts.items():
        if isinstance(cut, Partition):
            continue
        if cut in used:
            raise ShapeError(
                f"the logical axis {cut!r} is used twice, for {used[cut]!r} and {tag!r} of {shape}; "
                "an axis of the mesh cuts one axis of a shape: leave the other open or replicated"
            )
        used[cut] = tag
    return tuple(cuts.values())


def complete_order(shape: Shape, tags: tuple[str | EllipsisType, ...]) -> tuple[str, ...]:
    """The order of axes that `tags` describe, where one `...` stands for the axes that are not named."""
    named = [tag for tag in tags if not isinstance(tag, EllipsisType)]
    rest = [tag for tag in shape.tags if tag not in named]
    order: list[str] = []
    for tag in tags:
        order += rest if isinstance(tag, EllipsisType) else [tag]
    if sorted(order) != sorted(shape.tags):
        given = ["..." if isinstance(tag, EllipsisType) else tag for tag in tags]
        raise ShapeError(
            f"transpose: {given} is not an order of the axes of {shape}; "
            "name each tag once, with ... at most once for the rest"
        )
    return tuple(order)


def _check_dim(tag: str, dim: Any) -> int:
    try:
        size = -1 if isinstance(dim, bool) else operator.index(dim)
    except TypeError:
        size = -1
    if size < 0:
        raise ShapeError(
            f"the axis {tag!r} cannot have {dim!r} elements; expected an integer of 0 or more"
        )
    return size
