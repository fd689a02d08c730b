import os
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.compile import ExecutableCache
from zml.platform import Platform

_X = np.arange(6, dtype=np.float32).reshape(2, 3)


def _platform(folder: Path, devices: int = 1) -> Platform:
    return Platform.init("cpu", devices, ExecutableCache(folder))


def _abstract(platform: Platform, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, 3), dtype, sharding=platform.replicated())


def scale(x: jax.Array) -> dict[str, jax.Array]:
    return {"double": 2 * x, "sum": jnp.sin(x).sum()}


def test_the_second_time_it_comes_from_the_cache_and_gives_the_same(tmp_path: Path) -> None:
    results = []
    for cached in (False, True):
        platform = _platform(tmp_path / "c")
        program = platform.compile(scale, _abstract(platform))
        assert program.cached is cached
        assert program.name == "scale"
        assert program.temporary_bytes >= 0
        results.append(jax.tree.map(np.asarray, program(platform.put(_X))))
    jax.tree.map(np.testing.assert_array_equal, *results)
    np.testing.assert_array_equal(results[0]["double"], 2 * _X)


def test_without_a_cache_it_compiles() -> None:
    platform = Platform.init()
    program = platform.compile(scale, _abstract(platform))
    assert not program.cached
    np.testing.assert_array_equal(program(platform.put(_X))["double"], 2 * _X)


def test_what_differs_is_not_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other names in the result, another dtype, device count, donation or XLA_FLAGS: each is a program of its own."""

    def renamed(x: jax.Array) -> dict[str, jax.Array]:
        result = scale(x)
        return {"drouble": result["double"], "sum": result["sum"]}

    renamed.__name__ = "scale"
    one, two = _platform(tmp_path / "c"), _platform(tmp_path / "c", 2)
    assert not one.compile(scale, _abstract(one)).cached
    other = one.compile(renamed, _abstract(one))
    assert not other.cached
    assert set(other(one.put(_X))) == {"drouble", "sum"}
    assert not one.compile(scale, _abstract(one, np.float16)).cached
    assert not one.compile(scale, _abstract(one), donate=(0,)).cached
    assert not two.compile(scale, _abstract(two)).cached
    monkeypatch.setenv(
        "XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_fast_math=false"
    )
    assert not one.compile(scale, _abstract(one)).cached
    monkeypatch.undo()
    assert one.compile(scale, _abstract(one)).cached


def test_arguments_of_another_structure_are_another_program(tmp_path: Path) -> None:
    def of_dict(x: dict[str, jax.Array]) -> jax.Array:
        return x["a"] - x["b"]

    def of_pair(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        return x[0] - x[1]

    of_pair.__name__ = of_dict.__name__ = "same"  # and so is their StableHLO
    platform = _platform(tmp_path / "c")
    spec, x = _abstract(platform), platform.put(_X)
    platform.compile(of_dict, {"a": spec, "b": spec})
    program = platform.compile(of_pair, (spec, spec))
    assert not program.cached
    assert not np.asarray(program((x, x))).any()


@pytest.mark.parametrize(
    "blob",
    [b"", b"no pickle", pickle.dumps(1), pickle.dumps((b"no program", None, None))],
    ids=["empty", "no pickle", "another object", "no program"],
)
def test_an_entry_that_is_no_program_is_compiled_anew(
    blob: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    platform = _platform(tmp_path / "c")
    platform.compile(scale, _abstract(platform))
    (entry,) = (tmp_path / "c").iterdir()
    ExecutableCache(tmp_path / "c").put(entry.name, blob)
    program = platform.compile(scale, _abstract(platform))
    assert not program.cached
    assert "compiling it anew" in caplog.text
    np.testing.assert_array_equal(program(platform.put(_X))["double"], 2 * _X)
    assert platform.compile(scale, _abstract(platform)).cached


def test_donated_arguments_survive_the_cache(tmp_path: Path) -> None:
    def step(x: jax.Array) -> jax.Array:
        return x + 1

    for cached in (False, True):
        platform = _platform(tmp_path / "c")
        program = platform.compile(step, _abstract(platform), donate=(0,))
        assert program.cached is cached
        x = program(platform.put(_X))
        np.testing.assert_array_equal(np.asarray(program(x)), _X + 2)
        assert x.is_deleted()
