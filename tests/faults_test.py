"""Whole loads from a web server behind faults: each tensor is bit-identical, or there is one error in time."""

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zml
from zml.errors import ReadError
from zml.testing import fresh
from zml.testing.files import tensors
from zml.testing.servers.faults import faults
from zml.testing.servers.nginx import nginx
from zml.vfs import Options, Vfs

SEEDS = int(os.environ.get("ZML_FAULT_SEEDS", "12"))
"""How many loads; each has faults of its own."""
_FILES = 10
_OPTIONS = Options(backoff=0.01, backoff_limit=0.1, deadline=20.0, read_timeout=5.0)


@cache
def _platform() -> zml.Platform:
    return zml.Platform.init("cpu")


def _write(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A checkpoint of several files, so that a load takes some dozens of requests."""
    rng, arrays, weight_map = fresh.generator(), {}, {}
    for number in range(_FILES):
        part: dict[str, np.ndarray[Any, Any]] = {
            f"layers.{number}.{name}": rng.standard_normal(dims).astype(np.float32)
            for name, dims in (("a", (67, 129)), ("b", (31,)), ("c", (200, 100)))
        }
        name = f"model-{number}.safetensors"
        (folder / name).write_bytes(tensors(part))
        arrays.update(part)
        weight_map.update(dict.fromkeys(part, name))
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    return arrays


def _load(url: str, options: Options) -> Any:
    with Vfs(options) as vfs, zml.TensorStore.open(url, vfs) as store:
        view = store.view()
        declared = {
            name: view.tensor(name, [f"d{i}" for i in range(len(entry.shape))])
            for name, entry in store.entries.items()
        }
        return zml.io.load(declared, store, _platform())


def test_loads_through_faults_are_bit_identical(tmp_path: Path) -> None:
    arrays = _write(tmp_path)
    made = 0
    with nginx(tmp_path) as server:
        for seed in range(SEEDS):
            with faults(server.url, seed=seed, cut=0.05, busy=0.05, truncate=0.02) as proxy:
                loaded = _load(proxy.url, _OPTIONS)
            made += sum(count for kind, count in proxy.counts.items() if kind != "requests")
            for name, array in arrays.items():
                assert loaded[name].numpy().tobytes() == array.tobytes(), (seed, name)
    assert made > SEEDS


def test_a_server_that_stays_dead_is_one_error_in_time(tmp_path: Path) -> None:
    _write(tmp_path)
    options = Options(backoff=0.01, backoff_limit=0.1, deadline=1.0)
    with (
        nginx(tmp_path) as server,
        faults(server.url) as proxy,
        Vfs(options) as vfs,
        zml.TensorStore.open(proxy.url, vfs) as store,
    ):
        view = store.view()
        declared = {name: view.tensor(name, {"x": 31}) for name in store.entries if name[-1] == "b"}
        proxy.dead = True
        began = time.monotonic()
        with pytest.raises(ReadError, match=r"model-\d\.safetensors"):
            zml.io.load(declared, store, _platform())
        assert time.monotonic() - began < 30
