"""The CPU client that jaxlib carries."""

import functools
import hashlib
import platform as host
from pathlib import Path
from typing import Any

from jaxlib import xla_client

from zml.pjrt import distributed
from zml.pjrt.client import Client
from zml.pjrt.distributed import Distributed


def client(device_count: int) -> Any:
    """A private PJRT client with `device_count` CPU devices, unknown to jax's own table of backends."""
    return xla_client.make_cpu_client(num_devices=device_count)


def open_client(
    device_count: int, joined: Distributed | None = None, hostname: str | None = None
) -> Client:
    """The same as a Client; with `joined`, one that spans the processes, each with `device_count` devices.

    `hostname` is where the other processes reach this one; by default what the host calls itself.
    """
    raw = (
        client(device_count)
        if joined is None
        else distributed.cpu_client(device_count, joined, hostname)
    )
    return Client("cpu", raw, instructions=fingerprint(), distributed=joined)


@functools.cache
def fingerprint() -> str:
    """Names the instruction set that XLA compiles for here: code for one CPU may be illegal on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
        model = next((x for x in lines if x.startswith(("model name", "CPU part"))), "")
    except OSError:
        features = model = host.processor()
    return hashlib.sha256(f"{host.machine()} {model} {features}".encode()).hexdigest()[:16]
