"""From a traced function to a program that runs."""

import hashlib
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import serialize_executable
from jaxlib.version import __version__ as jaxlib_version

from zml import log
from zml.compile.cache import ExecutableCache


@dataclass(frozen=True)
class Executable:
    """A compiled program. `seconds` is what lowering and compiling (or reading it back from the cache) took."""

    name: str
    cached: bool
    seconds: float
    _compiled: Any

    def __call__(self, *args: Any) -> Any:
        """Runs it; arguments must have the shapes, dtypes and shardings that it was compiled for."""
        return self._compiled(*args)

    @property
    def temporary_bytes(self) -> int:
        """Device memory that a run takes beside arguments and results."""
        return int(self._compiled.memory_analysis().temp_size_in_bytes)


def compile_function(
    jitted: Any,
    abstract: tuple[Any, ...],
    client: Any,
    devices: Sequence[jax.Device],
    target_key: str,
    cache: ExecutableCache | None,
) -> Executable:
    """Lowers, then takes the program from the cache or compiles it and stores it there."""
    began = time.perf_counter()
    name = jitted.__name__
    lowered = jitted.lower(*abstract)
    if cache is None:
        return Executable(name, False, time.perf_counter() - began, lowered.compile())
    # The trees are part of it: the same operations may take and give differently named parts.
    key = _key(lowered.as_text(), str(lowered.in_tree), str(lowered.out_tree), target_key)
    compiled = _deserialize(cache.get(key), client, devices)
    cached = compiled is not None
    if compiled is None:
        compiled = lowered.compile()
        cache.put(key, pickle.dumps(serialize_executable.serialize(compiled)))
    seconds = time.perf_counter() - began
    log.get("compile").debug("%s %s in %.3fs", name, "cached" if cached else "compiled", seconds)
    return Executable(name, cached, seconds, compiled)


def _key(*parts: str) -> str:
    parts = (*parts, jax.__version__, jaxlib_version, os.environ.get("XLA_FLAGS", ""))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _deserialize(blob: bytes | None, client: Any, devices: Sequence[jax.Device]) -> Any | None:
    if blob is None:
        return None
    try:
        payload, in_tree, out_tree = pickle.loads(blob)
        return serialize_executable.deserialize_and_load(
            payload, in_tree, out_tree, backend=client, execution_devices=devices
        )
    except Exception as error:  # whatever a program of another build may raise: it is compiled anew
        log.get("compile").warning(
            "a cached program could not be read (%s); compiling it anew", error
        )
        return None
