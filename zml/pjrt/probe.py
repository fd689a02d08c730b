"""Looks for accelerators in device nodes and firmware tables. Nothing is opened, loaded or asked over a network."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zml.pjrt.host import Host

# PCI vendor Google, and its chips that are TPUs; its network and disk controllers have other numbers. Source: the list
# in jax's hardware_utils.
_GOOGLE = "0x1ae0"
_TPUS = {
    "0x0027": "v2 or v3",
    "0x0056": "v4",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "7x",
}


@dataclass(frozen=True)
class Probe:
    """What was found of one kind of accelerator. `problem` is empty where it can be used, as far as one can see."""

    devices: tuple[str, ...] = ()
    problem: str = ""


def probe(target: str, host: Host) -> Probe:
    """Looks for the hardware of a target. The host's CPU is always there."""
    look = _PROBES.get(target)
    return Probe(("the host's CPU",)) if look is None else look(host.root)


def on_google_cloud(host: Host) -> bool:
    """Whether this is a machine of Google's, by its firmware: there libtpu may ask the metadata server."""
    names = (
        _read(host.root / "sys/class/dmi/id" / name) for name in ("product_name", "sys_vendor")
    )
    return any("google" in name.lower() for name in names)


def _cuda(root: Path) -> Probe:
    nodes = _nodes(root, "nvidia[0-9]*", "dxg", "nvhost-gpu", "nvgpu/*")
    if not nodes and _nodes(root, "nvidiactl"):
        return Probe(
            problem="the NVIDIA driver is there (/dev/nvidiactl), but no GPU was given to this machine or container"
        )
    return _usable(root, nodes, "no NVIDIA GPU: there is no /dev/nvidia*")


def _rocm(root: Path) -> Probe:
    if not _nodes(root, "kfd"):
        return Probe(problem="no AMD GPU: there is no /dev/kfd")
    nodes = _nodes(root, "dri/renderD*")
    if not nodes:
        return Probe(
            problem="no AMD GPU: there is /dev/kfd, but no /dev/dri/renderD*; give the container both"
        )
    return _usable(root, ("/dev/kfd", *nodes), "")


def _tpu(root: Path) -> Probe:
    nodes = _nodes(root, "accel[0-9]*", "vfio/[0-9]*")
    chips = [_TPUS[device] for device in _google_devices(root) if device in _TPUS]
    if not nodes:
        there = (
            "its driver's /dev/accel* or /dev/vfio/* are missing"
            if chips
            else "there is no /dev/accel* or /dev/vfio/*"
        )
        return Probe(problem=f"no TPU: {there}")
    # /dev/vfio and /dev/accel are other devices' too; a chip newer than the list is known by its machine.
    if not chips and not on_google_cloud(Host(root)):
        return Probe(problem=f"no TPU: {', '.join(nodes)} are of other devices")
    return _usable(root, nodes, "")


def _neuron(root: Path) -> Probe:
    return _usable(
        root, _nodes(root, "neuron[0-9]*"), "no Trainium or Inferentia: there is no /dev/neuron*"
    )


_PROBES: Mapping[str, Callable[[Path], Probe]] = {
    "cuda": _cuda,
    "rocm": _rocm,
    "tpu": _tpu,
    "neuron": _neuron,
}


def _nodes(root: Path, *patterns: str) -> tuple[str, ...]:
    found = {path for pattern in patterns for path in (root / "dev").glob(pattern)}
    return tuple(f"/{path.relative_to(root)}" for path in sorted(found) if not path.is_dir())


def _usable(root: Path, nodes: tuple[str, ...], absent: str) -> Probe:
    if not nodes:
        return Probe(problem=absent)
    closed = [node for node in nodes if not os.access(root / node[1:], os.R_OK | os.W_OK)]
    if len(closed) == len(nodes) or "/dev/kfd" in closed:
        return Probe(
            nodes,
            f"{', '.join(closed)} may not be opened by this user; add the user to the group that owns it, often "
            "'render' or 'video'",
        )
    return Probe(nodes)


def _google_devices(root: Path) -> list[str]:
    folders = (root / "sys/bus/pci/devices").glob("*")
    return [_read(pci / "device") for pci in sorted(folders) if _read(pci / "vendor") == _GOOGLE]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
