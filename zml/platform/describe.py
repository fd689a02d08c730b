"""A platform as a tree, for people."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zml.platform.device import Device
from zml.units import binary_size

if TYPE_CHECKING:
    from zml.platform.platform import Platform

type _Branch = tuple[str, Sequence[Any]]
"""A line, and the branches below it."""


def describe(platform: "Platform") -> str:
    """The tree: version, attributes, mesh, devices with their memories, shardings."""
    client = platform.client
    branches: list[_Branch] = [(f"version: {platform.version}", ())]
    if client.library is not None:
        branches.append((f"plugin: {client.library}", ()))
    if platform.kernels is not None:
        branches.append((f"kernels: {platform.kernels}", ()))
    if platform.attributes:
        lines = [(f"{name}: {value}", ()) for name, value in platform.attributes.items()]
        branches.append(("attributes", lines))
    if client.distributed is not None:
        branches.append((f"process: {client.process} of {client.distributed.processes}", ()))
    axes = " > ".join(map(str, platform.mesh.axes))
    branches.append((f"physical mesh: {axes}", ()))
    branches.append(("devices", [_device(device) for device in platform.devices]))
    shardings = [_sharding(str(sharding)) for sharding in platform.shardings]
    branches.append(("shardings" if shardings else "shardings: none registered", shardings))
    if platform.passed_over:
        lines = [(str(candidate), ()) for candidate in platform.passed_over]
        branches.append(("passed over", lines))
    return "\n".join([f"Platform {platform.target}: {platform.device_name}", *_draw(branches)])


def _device(device: Device) -> _Branch:
    kind = f" ({device.kind})" if device.kind else ""
    if not device.local:
        return f"{device}{kind}, not of this process", ()
    lines = [(f"{name}: {value}", ()) for name, value in device.attributes.items()]
    return f"{device}{kind}", [*lines, _memories(device)]


def _memories(device: Device) -> _Branch:
    stats = device.memory_stats or {}
    used, limit = stats.get("bytes_in_use"), stats.get("bytes_limit")
    filled = (
        ""
        if used is None or not limit
        else f" ({binary_size(used)} of {binary_size(limit)} in use)"
    )
    own, *others = device.memories
    return f"memories: {', '.join([own + filled, *others])}", ()


def _sharding(text: str) -> _Branch:
    head, *lines = text.splitlines()
    return head.removeprefix("Sharding "), [(line.strip(), ()) for line in lines]


def _draw(branches: Sequence[_Branch], indent: str = "") -> Iterator[str]:
    for index, (line, below) in enumerate(branches):
        last = index == len(branches) - 1
        yield indent + ("└─ " if last else "├─ ") + line
        yield from _draw(below, indent + ("   " if last else "│  "))
