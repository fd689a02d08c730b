"""Safetensors: what is in them, and how fast it comes onto the devices."""

import math
from collections.abc import Mapping
from typing import Any

from absl import flags

from examples.command import open_platform, users_url
from zml.errors import UnsupportedError
from zml.units import binary_size
from zml.vfs import Vfs

# Names with more parts than that are not taken apart further.
_DEEPEST = 32


def show(vfs: Vfs, _: flags.FlagValues, url: str) -> None:
    """The tensors by name as a tree, equal layers on one line, and the sum of their sizes."""
    from zml.io import TensorStore

    with TensorStore.open(users_url(url), vfs) as store:
        root: dict[str, Any] = {}
        for name, entry in store.entries.items():
            at = root
            *path, leaf = name.split(".", _DEEPEST)
            for part in path:
                at = at.setdefault(part, {})
                if not isinstance(at, dict):  # a tensor whose name is the prefix of another's
                    break
            if isinstance(at, dict) and leaf not in at:
                at[leaf] = entry
            else:
                root[name] = entry
        for line in _lines(root, ""):
            print(line)
        entries = store.entries.values()
        size = sum(entry.end - entry.begin for entry in entries)
        files = len({entry.file for entry in entries})
        print(f"{len(entries)} tensors, {binary_size(size)}, in {files} file(s)")


def _lines(node: Mapping[str, Any], indent: str) -> list[str]:
    result: list[str] = []
    items = sorted(node.items(), key=lambda item: (not item[0].isdigit(), len(item[0]), item[0]))
    if not any(name.isdigit() for name in node):
        items = sorted(node.items())
    position = 0
    while position < len(items):
        name, value = items[position]
        end = position + 1
        # A run of layers with equal tensors is one entry.
        while end < len(items) and _follows(items[end - 1][0], items[end][0]):
            if not _same(value, items[end][1]):
                break
            end += 1
        label = _printable(name)
        if end > position + 1:
            label += f"..{items[end - 1][0]}"
        if isinstance(value, dict):
            below = _lines(value, indent + "  ")
            times = f" x {end - position}" if end > position + 1 else ""
            result += [f"{indent}{label}{times}  {binary_size(_bytes(value))}", *below]
        else:
            shape = ",".join(map(str, value.shape))
            result.append(f"{indent}{label}  {value.dtype}[{shape}]  {binary_size(_bytes(value))}")
        position = end
    return result


def _follows(name: str, following: str) -> bool:
    numbers = name.isdecimal() and following.isdecimal() and len(following) < 19
    return numbers and int(following) == int(name) + 1


def _printable(name: str) -> str:
    """Names are a file's, which may be anybody's: a terminal is not to take orders from them."""
    return name if name.isprintable() else ascii(name)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    return (
        not isinstance(a, dict)
        and not isinstance(b, dict)
        and (a.dtype, a.shape) == (b.dtype, b.shape)
    )


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_bytes(part) for part in value.values())
    size: int = value.end - value.begin
    return size


def load(vfs: Vfs, values: flags.FlagValues, url: str) -> None:
    """Every tensor as it is stored; with --shard cut along its longest axis that all devices divide."""
    import zml
    from zml.io.safetensors import STORED

    with zml.TensorStore.open(users_url(url), vfs) as store:
        count = values.cpu_device_count
        platform = open_platform(values.platform, zml.CpuOptions(count) if count else None)
        sharding = platform.sharding("all", zml.LogicalMesh(all=zml.HIGH_BANDWIDTH))
        devices = len(platform.devices)
        view = store.view()
        declared = {}
        for name, entry in store.entries.items():
            if entry.dtype not in STORED:
                raise UnsupportedError(
                    f"{entry.file}: tensor {name!r} is {entry.dtype}, which no device here holds"
                )
            tags = {f"d{axis}": dim for axis, dim in enumerate(entry.shape)}
            fitting = [tag for tag, dim in tags.items() if dim and dim % devices == 0]
            longest = max(fitting, key=lambda tag: tags[tag], default=None)
            cut: dict[str, Any] = (
                {longest: "all"} if values.shard and longest and devices > 1 else {}
            )
            declared[name] = view.tensor(name, tags, **cut)
        report = zml.io.LoadReport()
        buffers = zml.io.load(declared, store, platform, shardings=[sharding], report=report)
        elements = sum(math.prod(buffer.shape.dims) for buffer in buffers.values())
    print(
        f"{len(buffers)} tensors, {elements} elements on {devices} device(s); "
        f"{binary_size(report.bytes_read)} read for {binary_size(report.bytes_needed)}"
    )
