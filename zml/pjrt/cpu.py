"""The CPU client that jaxlib carries."""

import functools
import hashlib
import platform as host
from pathlib import Path
from typing import Any

from jaxlib import xla_client


def client(device_count: int) -> Any:
    """A private PJRT client with `device_count` CPU devices, unknown to jax's own table of backends."""
    return xla_client.make_cpu_client(num_devices=device_count)


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
