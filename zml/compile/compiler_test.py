"""Compiling: results against numpy, donation, memory kinds, passes, options, errors."""

import functools
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from zml import ops
from zml.compile import CompileOptions, ExecutableCache
from zml.errors import BufferError, CompileError, ShapeError
from zml.model_tree import model, static
from zml.platform import CpuOptions, Platform
from zml.shape import REPLICATED, Shape
from zml.sharding import (
    HIGH_BANDWIDTH,
    Geometry,
    LogicalMesh,
    Partitioner,
    PhysicalMesh,
    Placement,
    ShardingError,
    Strategy,
)
from zml.tensor import Tensor


@model
class Layer:
    weight: Tensor
    scale: float = static(default=1.0)

    def __call__(self, x: Tensor) -> Tensor:
        return x.dot(self.weight, "d") * self.scale


@functools.cache
def platform(devices: int) -> Platform:
    opened = Platform.init("cpu", CpuOptions(devices))
    opened.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return opened


def random(*dims: int) -> Any:
    return np.random.default_rng().standard_normal(dims).astype(np.float32)


def _broken(module: Any) -> None:
    raise ZeroDivisionError("division by zero")


WEIGHT = Shape({"o": 8, "d": 6}, "f32", {"o": "model"})


@pytest.mark.parametrize("partitioner", Partitioner)
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_model_is_compiled_and_called(devices: int, partitioner: Partitioner) -> None:
    here = platform(devices)
    options = CompileOptions(partitioner=partitioner)
    exe = here.compile(
        Layer.__call__,
        Layer(Tensor.declare(WEIGHT), 3.0),
        Shape({"s": 5, "d": 6}, "f32"),
        options=options,
    )
    w, x = random(8, 6), random(5, 6)
    loaded: Any = Layer
    y = exe(loaded(here.put(w, WEIGHT), 3.0), here.put(x, ("s", "d")))
    assert str(y.shape) == "{s=5,o=8/model,f32}"
    assert {s.data.shape for s in y.array.addressable_shards} == {(5, 8 // devices)}
    np.testing.assert_allclose(y.numpy(), 3.0 * x.astype(np.float64) @ w.T, rtol=1e-5, atol=1e-5)
    assert exe.name == "Layer.__call__"
    assert [value.name for value in exe.signature.inputs] == ["self.weight", "x"]


def test_results_are_any_pytree() -> None:
    def fn(x: Tensor, y: dict[str, Tensor]) -> Any:
        return {"sum": x + y["a"], "more": [x, None, (y["a"] * 2.0,)]}

    here, shape = platform(1), Shape({"d": 3}, "f32")
    a, b = random(3), random(3)
    got = here.compile(fn, shape, {"a": shape})(here.put(a, shape), {"a": here.put(b, shape)})
    np.testing.assert_array_equal(got["sum"].numpy(), a + b)
    np.testing.assert_array_equal(got["more"][0].numpy(), a)
    assert got["more"][1] is None
    np.testing.assert_array_equal(got["more"][2][0].numpy(), 2 * b)


def test_a_function_is_traced_once() -> None:
    calls = []

    def fn(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return x + 1.0

    platform(1).compile(fn, Shape({"d": 3}, "f32"))
    assert len(calls) == 1


def test_a_called_function_is_in_the_program_once_and_follows_its_shardings() -> None:
    traced = []

    def layer(x: Tensor) -> Tensor:
        traced.append(x.shape)
        return (x * 2.0).partitioned(d="model")

    def fn(x: Tensor) -> Tensor:
        for _ in range(4):
            x = ops.call(layer, x)
        return x

    for devices in (2, 4):
        traced.clear()
        shape = Shape({"d": 8}, "f32", {"d": "model"})
        exe = platform(devices).compile(fn, shape)
        assert len(traced) == 1
        assert (
            exe.stablehlo.count(" call @") == 4 and exe.stablehlo.count("stablehlo.multiply") == 1
        )
        x = random(8)
        got = exe(platform(devices).put(x, shape))
        np.testing.assert_array_equal(got.numpy(), 16 * x)
        assert got.array.addressable_shards[0].data.shape == (8 // devices,)


def test_no_sharding_is_registered() -> None:
    here = Platform.init("cpu", CpuOptions(2))
    got = here.compile(lambda x: x + 1.0, Shape({"d": 3}, "f32"))(here.put(random(3), ("d",)))
    assert got.array.sharding.is_fully_replicated
    with pytest.raises(ShardingError, match=r"no sharding has all the logical axes .*o=8/model"):
        here.compile(lambda x: x, WEIGHT)


def test_a_partitioning_inside_shows_in_the_program() -> None:
    def whole(x: Tensor) -> Tensor:
        return x.partitioned(d=REPLICATED) + 1.0

    exe = platform(2).compile(whole, Shape({"d": 8}, "f32", {"d": "model"}))
    assert "all-gather" in exe.hlo
    x = random(8)
    got = exe(platform(2).put(x, Shape({"d": 8}, "f32", {"d": "model"})))
    np.testing.assert_array_equal(got.numpy(), x + 1)
    assert got.array.sharding.is_fully_replicated


# Donation


@pytest.mark.parametrize("devices", [1, 2])
def test_a_result_reuses_the_buffer_that_it_names(devices: int) -> None:
    """Two buffers of one shape, in crossed order: each result is where its own argument was."""
    here, shape = platform(devices), Shape({"d": 8}, "f32", {"d": "model"})

    def fn(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return (b + 1.0).reuse_buffer(b), (a + 2.0).reuse_buffer(a)

    exe = here.compile(fn, shape, shape)
    assert [r.aliases for r in exe.signature.results] == [1, 0]
    assert exe.memory.reused == 2 * 8 * 4 // devices
    a, b = random(8), random(8)
    given = here.put(a, shape), here.put(b, shape)
    where = [x.array.addressable_shards[0].data.unsafe_buffer_pointer() for x in given]
    got = exe(*given)
    np.testing.assert_array_equal(got[0].numpy(), b + 1)
    np.testing.assert_array_equal(got[1].numpy(), a + 2)
    assert [x.array.addressable_shards[0].data.unsafe_buffer_pointer() for x in got] == where[::-1]
    assert given[0].donated and given[1].donated
    with pytest.raises(BufferError, match=r"the argument a \{d=8/model,f32\} was donated"):
        exe(*given)
    with pytest.raises(BufferError, match="was donated to a program"):
        given[0].numpy()


def test_donation_is_refused_where_it_cannot_be() -> None:
    here, shape = platform(2), Shape({"d": 8}, "f32")

    def inner(x: Tensor) -> Tensor:
        return x + 1.0

    for fn, said in {
        lambda x: (
            x + 1.0,
            (x * 2.0).reuse_buffer(x),
            (x * 3.0).reuse_buffer(x),
        ): "both reuse the buffer of x",
        lambda x: x.reuse_buffer(x) + 1.0: "that was to reuse the buffer of x is no result",
        lambda x: (x + 1.0).reuse_buffer(x * 2.0): "is no argument of the compiled function",
        lambda x: x.sum("d").reuse_buffer(x): "a result fits only in a buffer of its shape",
        lambda x: (
            (x + 1.0).partitioned(d="model").reuse_buffer(x)
        ): "they are cut or kept differently",
        lambda x: ops.call(
            lambda y: inner(y).reuse_buffer(y), x
        ): "is no argument of the compiled function",
    }.items():
        with pytest.raises((CompileError, ShapeError), match=said):
            here.compile(fn, shape)


def test_outside_of_compile_reuse_has_no_effect() -> None:
    x = Tensor(jax.numpy.ones(3), ("d",))
    y = jax.jit(lambda x: (x + 1.0).reuse_buffer(x).in_memory("pinned_host"))(x)
    np.testing.assert_array_equal(y.value, 2)


# Memory kinds


def test_arguments_and_results_in_host_memory() -> None:
    def fn(x: Tensor) -> Tensor:
        return (x.in_memory("device") * 2.0).in_memory("unpinned_host")

    here = platform(1)
    exe = here.compile(fn, Tensor.declare({"d": 3}, "f32", memory="pinned_host"))
    x = random(3)
    got = exe(here.put(x, ("d",), memory="pinned_host"))
    assert got.memory == "unpinned_host"
    np.testing.assert_array_equal(got.numpy(), 2 * x)
    with pytest.raises(BufferError, match=r"x \{d=3,f32\} is in device memory, but .* pinned_host"):
        exe(here.put(x, ("d",)))


def test_host_memory_is_not_computed_with() -> None:
    declared = Tensor.declare({"d": 3}, "f32", memory="pinned_host")
    with pytest.raises(CompileError, match=r"x\.in_memory\('device'\)"):
        platform(1).compile(lambda x: x + 1.0, declared)
    with pytest.raises(ShapeError, match="'hbm' is no kind of memory; expected one of device"):
        declared.in_memory("hbm")


# Passes and options


def test_passes_see_the_program_before_it_is_compiled() -> None:
    seen = []

    def look(module: Any) -> None:
        seen.append(str(module))

    def fn(x: Tensor) -> Tensor:
        return (x + 1.0) * (x + 1.0)

    passes = (look, "builtin.module(cse)", look)
    exe = platform(1).compile(fn, Shape({"d": 3}, "f32"), options=CompileOptions(passes=passes))
    assert seen[0].count("stablehlo.add") == 2 and seen[1].count("stablehlo.add") == 1
    assert exe.stablehlo.count("stablehlo.add") == 1
    x = random(3)
    got = exe(platform(1).put(x, ("d",))).numpy()
    np.testing.assert_allclose(got, (x + 1) ** 2, rtol=1e-6)


def test_a_pass_can_change_what_is_computed() -> None:
    from jaxlib.mlir import ir

    def add_becomes_subtract(module: Any) -> None:
        def visit(op: Any) -> Any:
            if op.name == "stablehlo.add":
                with ir.InsertionPoint(op):
                    made = ir.Operation.create(
                        "stablehlo.subtract",
                        [op.results[0].type],
                        list(op.operands),
                        loc=op.location,
                    )
                op.results[0].replace_all_uses_with(made.results[0])
            return ir.WalkResult.ADVANCE

        module.operation.walk(visit)

    shape = Shape({"d": 3}, "f32")
    exe = platform(1).compile(
        lambda x, y: x + y, shape, shape, options=CompileOptions(passes=(add_becomes_subtract,))
    )
    a, b = random(3), random(3)
    np.testing.assert_array_equal(exe(*(platform(1).put(v, ("d",)) for v in (a, b))).numpy(), a - b)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (CompileOptions(passes=("builtin.module(nope)",)), r"pass 0 of .* \(builtin.module\(nope\)\) failed: .*'nope'"),
        (CompileOptions(passes=("nope(",)), "pass 0 of"),
        (CompileOptions(passes=(_broken,)), r"pass 0 of .*_broken\) failed: division by zero"),
        (CompileOptions(xla_flags={"xla_nope": 1}), "No such compile option: 'xla_nope'"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: CompileOptions, said: str) -> None:
    with pytest.raises(CompileError, match=said):
        platform(1).compile(lambda x: x + 1.0, Shape({"d": 3}, "f32"), options=options)


def test_xla_flags_reach_the_compiler(tmp_path: Path) -> None:
    options = CompileOptions(xla_flags={"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_text": True})
    platform(1).compile(lambda x: x + 1.0, Shape({"d": 3}, "f32"), options=options, name="dumped")
    assert any("dumped" in path.name for path in tmp_path.iterdir())


# Errors


def test_the_users_line_is_shown() -> None:
    def fn(x: Tensor) -> Tensor:
        call = jax.ffi.ffi_call("there_is_no_such_target", jax.ShapeDtypeStruct((3,), np.float32))
        return Tensor(call((x + 1.0).value), ("d",))  # this line

    with pytest.raises(CompileError) as error:
        platform(1).compile(fn, Shape({"d": 3}, "f32"))
    assert "there_is_no_such_target" in str(error.value)
    assert "compiler_test.py:" in str(error.value) and "# this line" in str(error.value)


def test_what_is_no_tensor_is_named() -> None:
    here, shape = platform(1), Shape({"d": 3}, "f32")
    with pytest.raises(CompileError, match=r"the argument layer\.scale is a float .*zml\.static"):

        @model
        class Forgotten:
            weight: Tensor
            scale: float

        here.compile(lambda layer: layer.weight, Forgotten(Tensor.declare(shape), 2.0))
    with pytest.raises(
        CompileError, match=r"the result\.value is a |the result is a .*expected a Tensor"
    ):
        here.compile(lambda x: x.value, shape)
    with pytest.raises(CompileError, match=r"the result\['a'\]\[1\] is a int"):
        here.compile(lambda x: {"a": [x, 3]}, shape)
    with pytest.raises(ShapeError, match=r"given \{d=3,f32\} and \{d=3,f32\}"):
        here.compile(lambda x: x.dot(x, "k"), shape)


def test_a_sharding_of_another_platform_is_refused() -> None:
    other = Platform.init("cpu", CpuOptions(2)).sharding(
        "theirs", LogicalMesh(model=HIGH_BANDWIDTH)
    )
    with pytest.raises(ShardingError, match=r"'theirs' is over 2 x cpu.* another platform"):
        platform(2).compile(lambda x: x, WEIGHT, shardings=[other])


def test_a_dim_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ShardingError, match=r"o=7 .*does not divide by the 2 shards"):
        platform(2).compile(lambda x: x, WEIGHT.set(o=7).partitioned(o="model"))


# The cache


def test_a_program_comes_back_from_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "zml.compile")
    w, x = random(8, 6), random(5, 6)
    loaded: Any = Layer
    results: list[Any] = []
    for cached in (False, True):
        # A new platform each time, as in another process.
        here = Platform.init("cpu", CpuOptions(2), cache=ExecutableCache(tmp_path / "c"))
        here.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
        exe = here.compile(
            Layer.__call__, Layer(Tensor.declare(WEIGHT)), Shape({"s": 5, "d": 6}, "f32")
        )
        assert exe.cached is cached
        results.append(exe(loaded(here.put(w, WEIGHT)), here.put(x, ("s", "d"))).numpy())
    np.testing.assert_array_equal(*results)
    assert "Compiled Layer.__call__" in caplog.text
    assert "Loaded from the cache: Layer.__call__" in caplog.text


def test_what_a_program_depends_on_is_in_the_key(tmp_path: Path) -> None:
    def compiled(devices: int = 1, add: float = 1.0, **options: Any) -> bool:
        here = Platform.init("cpu", CpuOptions(devices), cache=ExecutableCache(tmp_path / "c"))
        made = here.compile(
            lambda x: x + add, Shape({"d": 4}, "f32"), options=CompileOptions(**options)
        )
        return not made.cached

    assert compiled() and not compiled()
    assert compiled(devices=2) and compiled(add=2.0)
    assert compiled(xla_flags={"xla_cpu_enable_fast_math": True})
    assert compiled(partitioner=Partitioner.GSPMD)
    assert compiled(use_cache=False)
    assert not compiled(passes=("builtin.module(cse)",))  # it changes nothing here
    assert not compiled()


@pytest.mark.parametrize("where", ["code", "all"])
def test_a_damaged_entry_is_compiled_anew(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "c"
    cache = ExecutableCache(folder)
    here = Platform.init("cpu", cache=cache)
    compile_it = functools.partial(here.compile, lambda x: x + 1.0, Shape({"d": 4}, "f32"))
    assert not compile_it().cached
    (entry,) = folder.iterdir()
    if where == "all":
        entry.write_bytes(b"x" * 1000)
    else:  # a whole entry, whose content is no program
        cache.put(entry.name, b"no program")
    exe = compile_it()
    assert not exe.cached
    assert "compiling anew" in caplog.text or "compiling it anew" in caplog.text
    np.testing.assert_array_equal(exe(here.put(np.zeros(4, np.float32), ("d",))).numpy(), 1)
    assert compile_it().cached


def test_a_program_that_prints_is_not_cached(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = Platform.init("cpu", cache=ExecutableCache(tmp_path / "c"))
    for _ in range(2):
        exe = here.compile(lambda x: ops.debug_print(x, "look") + 1.0, Shape({"d": 2}, "f32"))
        assert not exe.cached
        exe(here.put(np.ones(2, np.float32), ("d",)))
        assert "look: {d=2,f32} [1. 1.]" in capfd.readouterr().out
    with pytest.raises(CompileError, match="prints from inside"):
        exe.serialize()


def test_a_program_uses_the_registered_shardings_that_go_together() -> None:
    """Two folds put four devices in different orders; each program takes the one that its inputs name."""
    here = Platform.init("cpu", CpuOptions(4))
    mesh = PhysicalMesh.given(here.devices, bus=(2, Geometry.TREE), link=(2, Geometry.RING))
    for name, fold in {"a": ("bus", "link"), "b": ("link", "bus")}.items():
        here.sharding(
            name, LogicalMesh(**{name: HIGH_BANDWIDTH}), Strategy(**{name: fold}), mesh=mesh
        )
    x = random(8)
    for name in "ab":
        shape = Shape({"d": 8}, "f32", {"d": name})
        exe = here.compile(lambda x, y: (x + y, y), shape, Shape({"d": 8}, "f32"))
        cut, whole = exe(here.put(x, shape), here.put(x, ("d",)))
        np.testing.assert_array_equal(cut.numpy(), 2 * x)
        np.testing.assert_array_equal(whole.numpy(), x)
        parts = Placement.of(here.sharding_for(shape), shape).shards
        found = {s.device.id: np.asarray(s.data) for s in cut.array.addressable_shards}
        for part in parts:
            np.testing.assert_array_equal(found[part.device.id], 2 * x[part.index])
    with pytest.raises(ShardingError, match="cannot be used in one program"):
        here.compile(lambda x, y: (x, y), *(Shape({"d": 8}, "f32", {"d": n}) for n in "ab"))
