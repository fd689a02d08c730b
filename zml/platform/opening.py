"""From a target and options to a client, and from a client to its mesh."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from zml import log
from zml.errors import UnsupportedError
from zml.kernels.cpu import library
from zml.kernels.cpu.library import Library, Missing
from zml.pjrt import cpu, distributed, plugin, sandbox
from zml.pjrt.client import Client
from zml.pjrt.distributed import Distributed
from zml.pjrt.host import Host
from zml.pjrt.probe import probe
from zml.pjrt.sandbox import Sandbox
from zml.platform.candidates import Candidate, candidates
from zml.platform.device import Device
from zml.platform.options import CpuOptions, DistributedOptions, GpuOptions, PlatformOptions
from zml.platform.target import Target
from zml.sharding import Device as Leaf
from zml.sharding import PhysicalMesh, find_physical_mesh

_LOG = log.get("platform")


type _Join = Callable[[], Distributed | None]


def open_client(
    target: Target, options: PlatformOptions, host: Host, join: _Join | None = None
) -> Client:
    """The client of a target. Raises UsageError or UnsupportedError.

    `join` meets the other processes; given by who tries several targets, as they are met once.
    """
    options.check(target)
    join = join or partial(_join, options.distributed)
    if target is Target.CPU:
        return _open_cpu(options, host, join)
    runtime = sandbox.find(host).get(target)
    if runtime is None:
        raise UnsupportedError(
            f"platform {target.value!r}: its runtime is not in this build, nor in {sandbox.VARIABLE}, nor installed; "
            f"build with --//platforms:{target.value}=true, or name the folder of a sandbox in {sandbox.VARIABLE}"
        )
    looked = probe(target, host)
    if runtime.complete and looked.problem:
        raise UnsupportedError(
            f"platform {target.value!r}: {looked.problem}; run on a machine that has one, or take another platform"
        )
    return _open_plugin(target, runtime, options, host, join)


def first(options: PlatformOptions, host: Host) -> tuple[Client, list[Candidate]]:
    """The client of the first candidate that opens, and those before it with their problems."""
    passed: list[Candidate] = []
    join = cache(partial(_join, options.distributed))
    for candidate in candidates(host):
        problem = candidate.problem
        if not problem:
            try:
                chosen = options.of_target(candidate.target)
                client = open_client(candidate.target, chosen, host, join)
                _LOG.info("%s", _report(candidate.target, passed))
                for absent in (x for x in passed if x.sandbox is None):
                    _LOG.debug("passed over %s", absent)
                return client, passed
            except UnsupportedError as error:
                if candidate.target is Target.CPU:
                    raise
                problem = str(error)
        passed.append(Candidate(candidate.target, candidate.sandbox, problem))
    raise AssertionError("the CPU is a candidate everywhere")


def _report(target: Target, passed: list[Candidate]) -> str:
    """The log line: what was taken, and why not those before it that this build has."""
    reasons = "; ".join(str(x) for x in passed if x.sandbox is not None)
    return f"Platform {target.value}" + (f"; passed over {reasons}" if reasons else "")


def native_kernels(client: Client) -> Library | Missing | None:
    """Those for programs of a client: of jaxlib's own CPU client alone, since a plugin does not know their handlers."""
    if client.target != Target.CPU or client.library is not None:
        return None
    found = library.load()
    if isinstance(found, Missing):
        _LOG.debug("no native kernels: %s", found.reason)
    return found


def mesh_of(client: Client) -> tuple[PhysicalMesh, tuple[Device, ...]]:
    """The devices of a client in the order of the mesh that joins them."""
    local = set(client.local_devices)
    devices = [Device(**vars(Leaf.of(d)), local=d in local) for d in client.devices]
    mesh = find_physical_mesh(devices)
    by_id = {device.id: device for device in devices}
    return mesh, tuple(by_id[leaf.id] for leaf in mesh.devices)


def _open_cpu(options: PlatformOptions, host: Host, join: _Join) -> Client:
    chosen = options.cpu or CpuOptions()
    if not chosen.plugin:
        hostname = options.distributed.hostname if options.distributed else None
        return cpu.open_client(chosen.device_count, join(), hostname)
    runtime = sandbox.find(host).get("cpu_plugin")
    if runtime is None:
        raise UnsupportedError(
            f"platform 'cpu' with CpuOptions(plugin=True): there is no sandbox 'cpu_plugin'; name its folder in "
            f"{sandbox.VARIABLE}, or leave plugin out to run on the client in jaxlib"
        )
    if options.distributed is not None:
        raise UnsupportedError(
            "platform 'cpu' with CpuOptions(plugin=True): the plugin cannot join processes; leave plugin or "
            "distributed out"
        )
    return plugin.open_client(runtime, {"cpu_device_count": chosen.device_count}, host)


def _open_plugin(
    target: Target, runtime: Sandbox, options: PlatformOptions, host: Host, join: _Join
) -> Client:
    chosen: dict[str, Any] = {}
    if target in (Target.CUDA, Target.ROCM):
        chosen = (options.gpu or GpuOptions()).client_options(target)
    return plugin.open_client(runtime, chosen, host, join())


def _join(options: DistributedOptions | None) -> Distributed | None:
    if options is None:
        return None
    return distributed.join(
        options.address, options.process, options.processes, options.timeout_seconds
    )
