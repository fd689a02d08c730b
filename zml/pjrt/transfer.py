"""Host memory to devices, for shardings of private clients: jax.device_put refuses those of several processes."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from jaxlib import _jax


def put(
    host: np.ndarray[Any, Any], sharding: NamedSharding, *, zero_copy: bool = False
) -> jax.Array:
    """The whole value `host`, of which each device of this process gets its part.

    All processes of the sharding give the same value. The devices have copies when this returns; with `zero_copy` they
    may read `host` at any time later, and CPU devices may have it as their memory: it must not change any more.
    """
    semantics = _jax.HostBufferSemantics
    how = semantics.ZERO_COPY if zero_copy else semantics.IMMUTABLE_ONLY_DURING_CALL
    places = sharding.addressable_devices_indices_map(host.shape)
    dots: tuple[Any, ...] = (...,)  # they make a part of a scalar an array too, and not a number
    parts = [host[(index or ()) + dots] for index in places.values()]
    # Given one host address for some of the devices, copying, jaxlib raises "bad_function_call".
    if sharding.is_fully_replicated or len({part.ctypes.data for part in parts}) == len(parts):
        return _put(host, sharding, parts, list(places), how)
    arrays = [
        _put(
            part,
            SingleDeviceSharding(device, memory_kind=sharding.memory_kind),
            [part],
            [device],
            how,
        )
        for device, part in zip(places, parts, strict=True)
    ]
    return jax.make_array_from_single_device_arrays(host.shape, sharding, arrays)


def alias(host: np.ndarray[Any, Any], device: jax.Device, memory_kind: str | None) -> jax.Array:
    """An array of one device whose memory is `host`, where the device is a CPU and the address divides by 64.

    Elsewhere it is copied, at any time while the array lives. `host` must not change any more.
    """
    where = SingleDeviceSharding(device, memory_kind=memory_kind)
    return _put(host, where, [host], [device], _jax.HostBufferSemantics.ZERO_COPY)


def send(host: np.ndarray[Any, Any], device: jax.Device, memory_kind: str | None) -> jax.Array:
    """A copy on one device, under way when this returns: `host` must not change until the array is ready."""
    where = SingleDeviceSharding(device, memory_kind=memory_kind)
    semantics = _jax.HostBufferSemantics.IMMUTABLE_UNTIL_TRANSFER_COMPLETES
    return _put(host, where, [host], [device], semantics)


def _put(
    like: np.ndarray[Any, Any], sharding: Any, parts: Any, devices: Any, how: Any
) -> jax.Array:
    spec = jax.core.ShapedArray(like.shape, like.dtype)
    return _jax.batched_device_put(spec, sharding, parts, devices, host_buffer_semantics=how)
