"""Several processes, each with devices of its own, that form one client: the runtime behind jax.distributed.

It belongs to whoever joined; jax's own table, which holds one such runtime for the process, is left alone.
"""

import socket
from dataclasses import dataclass
from typing import Any

import jax
from jaxlib import _jax, xla_client

from zml.errors import UnsupportedError


@dataclass(frozen=True)
class Distributed:
    """A process's place among `processes`. Keep it for as long as any client that was made with it."""

    process: int
    processes: int
    runtime: Any
    service: Any
    """The meeting point, which process 0 runs; None in the others."""

    def leave(self) -> None:
        """Waits until all processes are here, then ends the connection; process 0 ends the meeting point too."""
        self.runtime.shutdown()
        if self.service is not None:
            self.service.shutdown()


def join(address: str, process: int, processes: int, timeout_seconds: int = 300) -> Distributed:
    """Meets the other processes at `address` (host:port, where process 0 listens).

    Raises UnsupportedError if they do not come in time, or if process 0 cannot listen there. A process that ends
    without `leave`, or loses the others, is ended by jaxlib, and so are they: nobody waits for it.
    """
    service = None
    if process == 0:
        _check_free(address)
        service = _jax.get_distributed_runtime_service(address, processes)
    # Without a callback of ours jaxlib ends the process at once if the others do not come. With one, which it fails to
    # call, `connect` raises; once connected, a lost process still ends this one.
    runtime = _jax.get_distributed_runtime_client(
        address, process, init_timeout=timeout_seconds, missed_heartbeat_callback=_lost
    )
    try:
        runtime.connect()
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        if service is not None:
            service.shutdown()
        where = "waited for them" if process == 0 else "looked for process 0"
        raise UnsupportedError(
            f"process {process} of {processes} {where} at {address} for {timeout_seconds} s and did not meet all of "
            "them; start all processes with the same address and number of processes, check that the address is that "
            "of process 0 and can be reached from here, or give a longer timeout_seconds"
        ) from error
    return Distributed(process, processes, runtime, service)


def _lost(status: Any) -> None:
    raise RuntimeError(f"another process was lost: {status}")


def _check_free(address: str) -> None:
    """jaxlib crashes where it cannot listen."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise UnsupportedError(
            f"process 0 cannot listen at {address}: {error.strerror or error}; give it an address of this machine with "
            "a port that is free"
        ) from error


def cpu_client(device_count: int, distributed: Distributed, hostname: str | None = None) -> Any:
    """A private PJRT client of `device_count` CPU devices here and those elsewhere, joined over TCP (Gloo).

    `hostname` is where the others reach this process; by default what the host calls itself.
    """
    collectives = _jax.make_gloo_tcp_collectives(
        distributed_client=distributed.runtime, hostname=hostname
    )
    return xla_client.make_cpu_client(
        distributed_client=distributed.runtime,
        node_id=distributed.process,
        num_nodes=distributed.processes,
        collectives=collectives,
        num_devices=device_count,
    )
