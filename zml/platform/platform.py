"""A Platform owns one PJRT client, its devices and their mesh. There is no default one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zml.compile import Executable, ExecutableCache, compile_function
from zml.errors import UnsupportedError
from zml.io.spec import WeightSpec
from zml.pjrt import cpu

MODEL_AXIS = "model"


@dataclass(frozen=True)
class Platform:
    """The devices of one accelerator kind, in a one-dimensional mesh over which weights are split."""

    target: str
    mesh: Mesh
    cache: ExecutableCache | None
    _client: Any = field(repr=False)

    @staticmethod
    def init(
        target: str = "cpu", device_count: int = 1, cache: ExecutableCache | None = None
    ) -> "Platform":
        """Opens a platform. `device_count` splits the host's CPU into that many devices.

        `cache` keeps compiled programs between runs. Raises UnsupportedError for a target that this build lacks.
        """
        if target != "cpu":
            raise UnsupportedError(
                f"platform {target!r} is not supported yet: this build of zml runs on 'cpu' only, "
                "the accelerators' runtimes are not part of it"
            )
        client = cpu.client(device_count)
        mesh = Mesh(np.array(client.devices()), (MODEL_AXIS,))
        return Platform(target, mesh, cache, client)

    @property
    def devices(self) -> list[jax.Device]:
        """The devices in mesh order."""
        return list(self.mesh.devices.flat)

    @property
    def device_name(self) -> str:
        """What the device is, for reports: `cpu` or `2 x cpu`."""
        count, kind = len(self.devices), self.devices[0].device_kind
        return kind if count == 1 else f"{count} x {kind}"

    def replicated(self) -> NamedSharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def split(self, rank: int, axis: int | None, size: int) -> NamedSharding:
        """Axis `axis` (of `size` elements) split over the devices; replicated where it does not divide evenly."""
        if axis is None or size % len(self.devices):
            return self.replicated()
        names = [MODEL_AXIS if i == axis else None for i in range(rank)]
        return NamedSharding(self.mesh, PartitionSpec(*names))

    def sharding_of(self, spec: WeightSpec) -> NamedSharding:
        """Where a declared weight lives."""
        size = 0 if spec.split is None else spec.shape[spec.split]
        return self.split(len(spec.shape), spec.split, size)

    def put(self, value: Any, sharding: NamedSharding | None = None) -> jax.Array:
        """Host data on the devices, replicated unless told otherwise."""
        return jax.device_put(value, sharding or self.replicated())

    def place(self, spec: WeightSpec, host: np.ndarray) -> jax.Array:
        """The host data of a declared weight, where it lives."""
        return self.put(host, self.sharding_of(spec))

    def compile(
        self, function: Callable[..., Any], *abstract: Any, donate: tuple[int, ...] = ()
    ) -> Executable:
        """Compiles `function` for arguments of the given shapes, dtypes and shardings, through the cache if any."""
        jitted = jax.jit(function, donate_argnums=donate)
        devices = self.devices
        key = f"{self.target} {len(devices)} {devices[0].device_kind} {cpu.fingerprint()}"
        return compile_function(jitted, abstract, self._client, devices, key, self.cache)
