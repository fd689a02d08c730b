"""What XLA is told beside the program. Without jax, for a process that starts sooner."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxlib import xla_client

type Flag = bool | int | float | str


def build_options(ids: Sequence[int], shardy: bool, flags: Mapping[str, Flag]) -> Any:
    """Compile for the devices with these ids, in the order of the program's partitions."""
    options = xla_client.CompileOptions()
    options.num_replicas = 1
    options.num_partitions = len(ids)
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([ids]))
    build = options.executable_build_options
    build.use_spmd_partitioning = True
    build.use_shardy_partitioner = shardy
    if flags:
        options.env_option_overrides = list(flags.items())
    return options
