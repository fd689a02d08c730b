"""Programs that are called wrongly, caches that hold something else, results that are in another memory."""

import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jaxlib.mlir import ir

from zml import ops
from zml.buffer import Buffer
from zml.compile import CompileOptions, ExecutableCache
from zml.errors import BufferError, CompileError, ShapeError
from zml.model_tree import model, static
from zml.platform import CpuOptions, Platform
from zml.shape import REPLICATED, Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor

X = Shape({"a": 8}, "f32")
CUT = Shape({"a": 8}, "f32", {"a": "model"})


def opened(devices: int = 1, cache: ExecutableCache | None = None) -> Platform:
    here = Platform.init("cpu", CpuOptions(devices), cache=cache)
    here.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return here


def ones(here: Platform, shape: Shape = X) -> Buffer:
    return here.put(np.ones(shape.dims, np.float32), shape)


def add(x: Tensor, y: Tensor) -> Tensor:
    return (x + y).reuse_buffer(x)


@pytest.mark.parametrize("devices", [1, 2])
def test_one_buffer_for_two_arguments_of_which_one_is_donated(devices: int) -> None:
    here = opened(devices)
    x = ones(here)
    with pytest.raises(BufferError, match="add: the arguments x and y are one buffer"):
        here.compile(add, X, X)(x, x)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_baked_buffer_that_another_program_took(devices: int) -> None:
    here = opened(devices)
    x, y = ones(here), ones(here)
    runner = here.compile(lambda w, v: w + v, X, X, name="later").bake(x)
    np.testing.assert_array_equal(runner(y).numpy(), 2)
    here.compile(add, X, X)(x, y)
    with pytest.raises(BufferError, match=r"later: the argument w \{a=8,f32\} was donated"):
        runner(y)


def test_threads_that_donate_one_buffer_do_not_wait_for_each_other() -> None:
    here = opened(4)
    shape = Shape({"a": 16, "b": 16}, "f32", {"a": "model"})

    def mix(x: Tensor) -> Tensor:
        every = x.rename(a="c").partitioned(c=REPLICATED)
        return x.dot(every, "b").dot(every, "c").partitioned(a="model").reuse_buffer(x)

    exe = here.compile(mix, shape)
    assert "all-gather" in exe.hlo
    for _ in range(30):
        x, barrier, got = ones(here, shape).wait(), threading.Barrier(4), list[Any]()

        def one(x: Buffer = x, barrier: threading.Barrier = barrier, got: list[Any] = got) -> None:
            barrier.wait()
            try:
                got.append(exe(x).numpy()[0, 0])
            except BufferError as error:
                got.append(error)

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(type(value).__name__ for value in got) == ["BufferError"] * 3 + ["float32"]


def test_a_program_is_not_called_with_traced_tensors() -> None:
    here = opened()
    exe = here.compile(lambda x: x * 2, X, name="inner")
    with pytest.raises(BufferError, match=r"inner: the argument x is Tensor\(\{a=8,f32\}\)"):
        here.compile(lambda v: exe(v), X)


@pytest.mark.parametrize("flags", [{"xla_dump_to": [1]}, {"xla_dump_to": None}, {3: True}])
def test_flags_of_a_wrong_type_are_named(flags: Any) -> None:
    name = next(iter(flags))
    with pytest.raises(CompileError, match=f"compile add: the XLA flag {name!r} is "):
        opened().compile(add, X, X, options=CompileOptions(xla_flags=flags))


@pytest.mark.parametrize("devices", [1, 2])
def test_ordered_effects_are_refused(devices: int) -> None:
    def shows(x: Tensor) -> Tensor:
        jax.debug.print("{}", x.value, ordered=True)
        return x

    with pytest.raises(CompileError, match="ordered side effects"):
        opened(devices).compile(shows, X)


# Memory


@pytest.mark.parametrize("devices", [1, 2])
def test_a_result_stays_in_the_memory_that_it_is_in(devices: int) -> None:
    here = opened(devices)
    kept = Tensor.declare(CUT).in_memory("unpinned_host")

    def functions(x: Tensor, host: Tensor) -> tuple[Tensor, ...]:
        called = ops.call(lambda v: (v * 2).in_memory("pinned_host"), x)
        jitted: Tensor = jax.jit(lambda v: (v * 2).in_memory("pinned_host"))(x)
        return called, jitted, (x * 2).in_memory("pinned_host").partitioned(a=REPLICATED), host

    given = here.put(np.full(8, 2, np.float32), CUT, memory="unpinned_host")
    results = here.compile(functions, CUT, kept)(ones(here, CUT), given)
    assert [x.memory for x in results] == ["pinned_host"] * 3 + ["unpinned_host"]
    for x in results:
        np.testing.assert_array_equal(x.numpy(), 2)


# The cache


def test_an_entry_under_the_name_of_another_is_not_used(tmp_path: Path) -> None:
    cache = ExecutableCache(tmp_path)
    tmp_path.chmod(0o700)
    cache.put("a", b"one")
    shutil.copy(tmp_path / "a", tmp_path / "b")
    assert cache.get("a") == b"one" and cache.get("b") is None


def test_an_entry_that_is_no_program_is_compiled_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ExecutableCache(tmp_path / "c")
    opened(cache=cache).compile(add, X, X)
    (entry,) = (tmp_path / "c").iterdir()
    cache.put(entry.name, b"no code")
    assert not opened(cache=cache).compile(add, X, X).cached
    assert "could not be loaded" in caplog.text
    assert opened(cache=cache).compile(add, X, X).cached


def test_a_model_that_cannot_be_pickled_is_cached_all_the_same(tmp_path: Path) -> None:
    @model
    class Local:
        w: Tensor
        f: Any = static()

    def double(x: Tensor) -> Tensor:
        return x * 2

    here = opened(cache=ExecutableCache(tmp_path / "c"))
    declared = Local(Tensor.declare(X), lambda x: double(x))

    def forward(m: Local) -> Tensor:
        return m.f(m.w)

    assert [here.compile(forward, declared).cached for _ in range(2)] == [False, True]
    with pytest.raises(CompileError, match="cannot be serialized"):
        here.compile(forward, declared).serialize()


def test_the_environments_flags_are_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = opened(cache=ExecutableCache(tmp_path / "c"))
    here.compile(add, X, X)
    assert here.compile(add, X, X).cached
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert not here.compile(add, X, X).cached


def test_a_folder_that_cannot_have_its_name(caplog: pytest.LogCaptureFixture) -> None:
    cache = ExecutableCache(Path("a\0b"))
    cache.put("k", b"x")
    assert cache.get("k") is None and "cannot be made" in caplog.text


# Passes


_OTHER_RESULT = """
func.func public @main(%a: tensor<8xf32>) -> tensor<8xi32> {
  %0 = stablehlo.convert %a : (tensor<8xf32>) -> tensor<8xi32>
  return %0 : tensor<8xi32>
}
"""


@pytest.mark.parametrize("change", ["no main", "another result", "more devices"])
def test_a_pass_that_changes_arguments_or_results_is_named(change: str) -> None:
    def changes(module: Any) -> None:
        if change == "more devices":
            four = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4)
            module.operation.attributes["mhlo.num_partitions"] = four
            return
        for op in list(module.body.operations):
            op.erase()
        if change == "another result":
            other: Any = ir.Module.parse(_OTHER_RESULT)
            module.body.append(other.body.operations[0].detach_from_parent())

    with pytest.raises(CompileError, match=r"pass 0 of same \(.*changes\) changed what"):
        opened().compile(lambda x: x, X, name="same", options=CompileOptions(passes=(changes,)))


# Models


@pytest.mark.parametrize("value", [[1], {"a": 1}, np.ones(3)])
def test_a_static_value_that_can_change_is_refused(value: Any) -> None:
    @model
    class Mutable:
        w: Tensor
        k: Any = static()

    with pytest.raises(CompileError, match=r"a static field whose value is not hashable \(unhash"):
        opened().compile(lambda m: m.w, Mutable(Tensor.declare(X), value))


def test_a_called_function_takes_tensors() -> None:
    def scaled(x: Tensor, by: float) -> Tensor:
        return x * by

    with pytest.raises(
        ShapeError,
        match=r"an argument of .*scaled has a float \(2\.0\), expected pytrees of Tensors",
    ):
        Platform.init("cpu").compile(lambda x: ops.call(scaled, x, 2.0), Shape({"d": 3}, "f32"))
