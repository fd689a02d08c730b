"""Several processes, each with devices of its own, that form one client: the runtime behind jax.distributed.

It belongs to whoever joined; jax's own table, which holds one such runtime for the process, is left alone.
"""

from dataclasses import dataclass
from typing import Any

from jaxlib import _jax, xla_client


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

    Raises what jaxlib does if they do not come in time.
    """
    service = _jax.get_distributed_runtime_service(address, processes) if process == 0 else None
    runtime = _jax.get_distributed_runtime_client(address, process, init_timeout=timeout_seconds)
    runtime.connect()
    return Distributed(process, processes, runtime, service)


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
