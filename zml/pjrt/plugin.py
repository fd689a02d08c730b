"""Loads a PJRT plugin from a sandbox and makes a private client of it."""

import threading
import zlib
from collections.abc import Mapping
from typing import Any

import jax
from jaxlib import xla_client

from zml.errors import UnsupportedError
from zml.pjrt import cpu, probe
from zml.pjrt.client import Client
from zml.pjrt.distributed import Distributed
from zml.pjrt.host import Host
from zml.pjrt.sandbox import Sandbox

_loading = threading.Lock()

# How to mend what the loader or the plugin complains of.
_HOST_S = {
    "rocm": "the sandbox takes ROCm's own libraries from the host: install ROCm 7 in /opt/rocm, or name the folder of "
    "the missing library in LD_LIBRARY_PATH",
    "neuron": "the sandbox takes Neuron's run time from the host: install AWS's package aws-neuronx-runtime-lib, whose "
    "libraries are in /opt/aws/neuron/lib",
}
_MEND = {
    "cuda": "check that `nvidia-smi` lists a GPU and that the driver is new enough for CUDA 13 (580 or later)",
    "rocm": _HOST_S["rocm"],
    "tpu": "check that no other process uses the TPU",
    "neuron": "check that `neuron-ls` lists a device and that the driver fits the sandbox's runtime",
}


def open_client(
    sandbox: Sandbox, options: Mapping[str, Any], host: Host, joined: Distributed | None = None
) -> Client:
    """A private client of the sandbox's plugin, with PJRT client options.

    The environment that the plugin needs is set first, where the user has not set it. A plugin is loaded once in a
    process. Raises UnsupportedError with the file, what the loader or the plugin said, and how to mend it.
    """
    target, library = sandbox.target, sandbox.library
    if not sandbox.complete:
        raise UnsupportedError(
            f"the sandbox of {target} at {sandbox.root} ({sandbox.source}) is incomplete: {sandbox.problem}; build "
            f"it again (bazel build //platforms/{target}:sandbox)"
        )
    host.set_missing(environment(sandbox, host))
    name = _load(sandbox)
    chosen = dict(options)
    if joined is not None and target in ("cuda", "rocm"):
        chosen |= {"node_id": joined.process, "num_nodes": joined.processes}
    try:
        raw = xla_client.make_c_api_client(name, chosen, None if joined is None else joined.runtime)
    except jax.errors.JaxRuntimeError as error:
        raise UnsupportedError(
            f"platform {target!r}: the plugin {library} found nothing to run on: {_said(error)}; "
            f"{_MEND.get(target, 'check the options of the platform')}"
        ) from error
    on_cpu = target == "cpu_plugin"
    return Client(
        "cpu" if on_cpu else target,
        raw,
        library,
        xla_flags(sandbox),
        cpu.fingerprint() if on_cpu else None,
        joined,
    )


def xla_flags(sandbox: Sandbox) -> dict[str, str]:
    """What XLA has to be told for each program: where ptxas and libdevice are."""
    return {"xla_gpu_cuda_data_dir": str(sandbox.root)} if sandbox.target == "cuda" else {}


def environment(sandbox: Sandbox, host: Host) -> dict[str, str]:
    """What the plugin reads while it is loaded or makes a client."""
    match sandbox.target:
        case "cuda":
            return {"CUDA_ROOT": str(sandbox.root)}
        case "rocm":
            rocm = host.root / "opt/rocm"
            return {"ROCM_PATH": str(rocm)} if rocm.is_dir() else {}
        case "tpu":
            needed = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
            # Elsewhere libtpu would ask Google Cloud's metadata server, for minutes.
            return needed if probe.on_google_cloud(host) else needed | {"TPU_SKIP_MDS_QUERY": "1"}
    return {}


def _load(sandbox: Sandbox) -> str:
    """Loads the plugin unless it is; returns the name by which jaxlib knows it, which is that of one file."""
    # Links are not followed: in runfiles the plugin's libraries are beside the link, not beside the file.
    path = str(sandbox.library.absolute())
    name = f"zml_{sandbox.target}_{zlib.crc32(path.encode()):08x}"
    with _loading:
        try:
            if not xla_client.pjrt_plugin_loaded(name):
                xla_client.load_pjrt_plugin_dynamically(name, path)
            if not xla_client.pjrt_plugin_initialized(name):
                xla_client.initialize_pjrt_plugin(name)
        except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
            raise _unloadable(sandbox, _said(error)) from error
    return name


def _unloadable(sandbox: Sandbox, said: str) -> UnsupportedError:
    mend = "the file is damaged or for another machine: build or install it again"
    if "cannot open shared object" in said:
        mend = "a library that it needs is missing: "
        mend += _HOST_S.get(sandbox.target, "build the sandbox again")
    return UnsupportedError(
        f"platform {sandbox.target!r}: the plugin {sandbox.library} ({sandbox.source}) could not be loaded: "
        f"{said}; {mend}"
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
