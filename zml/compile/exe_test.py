"""Calling programs: what is checked, baked arguments, memory plans, serialized programs."""

import re
from typing import Any

import numpy as np
import pytest

from zml.buffer import Slice
from zml.compile import Exe
from zml.errors import BufferError, CompileError
from zml.model_tree import model
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor

CUT = Shape({"d": 8}, "f32", {"d": "model"})
X = Shape({"s": 3, "d": 8}, "f32")


@model
class Pair:
    a: Tensor
    b: Tensor | None


def step(weights: Pair, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    y = x * weights.a.broadcast(x.shape)
    return y, (state + y.sum("s").partitioned(d="model")).reuse_buffer(state)


def opened(devices: int = 2) -> Platform:
    here = Platform.init("cpu", CpuOptions(devices))
    here.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return here


def compiled(here: Platform) -> Exe:
    return here.compile(step, Pair(Tensor.declare(CUT), None), X, CUT)


def arguments(here: Platform) -> Any:
    random = np.random.default_rng()
    w, x = random.standard_normal(8, np.float32), random.standard_normal((3, 8), np.float32)
    return Pair(here.put(w, CUT), None), here.put(x, X), here.put(np.zeros(8, np.float32), CUT)  # type: ignore[arg-type]


def check(given: Any, results: Any) -> None:
    w, x = given[0].a.numpy(), given[1].numpy()
    np.testing.assert_array_equal(results[0].numpy(), x * w)
    np.testing.assert_allclose(
        results[1].numpy(), (x * w).astype(np.float64).sum(0), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("baked", [0, 1, 2])
def test_leading_arguments_are_baked(baked: int) -> None:
    here = opened()
    exe, given = compiled(here), arguments(here)
    run = exe.bake(*given[:baked])
    check(given, run(*given[baked:]))
    for _ in range(3):
        given = (*given[:2], here.put(np.zeros(8, np.float32), CUT))
        check(given, run(*given[baked:]))


def test_what_is_donated_cannot_be_baked() -> None:
    here = opened()
    with pytest.raises(BufferError, match="state is donated in every call and cannot be baked"):
        compiled(here).bake(*arguments(here))


def test_wrong_arguments_are_named() -> None:
    here, other = opened(), opened()
    exe = compiled(here)
    weights, x, state = arguments(here)
    foreign = arguments(other)
    wrong: dict[str, tuple[Any, ...]] = {
        "given 2 arguments with 2 buffers, expected 3: weights.a, x, state": (weights, x),
        "given 4 arguments with 4 buffers, expected 3": (weights, x, state, state),
        "the arguments have the structure": ([weights.a], x, state),
        "the argument x is a ndarray, expected a Buffer {s=3,d=8,f32}; put it on": (weights, x.numpy(), state),
        "the argument weights.a is {s=3,d=8,f32}, but the program was compiled for {d=8/model,f32}": (
            Pair(x, None), x, state,
        ),
        "the argument x is {d=8,s=3,f32}, but": (weights, here.put(x.numpy().T, ("d", "s")), state),
        "the argument x is {s=3,d=8,i32}, but": (weights, here.put(np.ones((3, 8), np.int32), ("s", "d")), state),
        "the argument weights.a {d=8/model,f32} is on 2 devices (cpu) of another platform": (foreign[0], x, state),
        "the argument state {d=8,f32} is cut as ": (
            weights, x, here.put(np.zeros(8, np.float32), ("d",)),
        ),
    }  # fmt: skip
    for said, args in wrong.items():
        with pytest.raises(BufferError, match=re.escape(said)):
            exe(*args)
    # Nothing was lost.
    check((weights, x, state), exe(weights, x, state))


def test_a_runner_checks_its_rest() -> None:
    here = opened()
    exe, (weights, x, state) = compiled(here), arguments(here)
    run = exe.bake(weights)
    for said, args in {
        "given 1 arguments with 1 buffers, expected 2: x, state": (x,),
        "the argument state is {s=3,d=8,f32}": (x, x),
    }.items():
        with pytest.raises(BufferError, match=re.escape(said)):
            run(*args)
    for said, args in {
        "the argument weights.a is {s=3,d=8,f32}": (Pair(x, None),),
        "4 arguments are baked, but it takes 3": (weights, x, state, state),
    }.items():
        with pytest.raises(BufferError, match=re.escape(said)):
            exe.bake(*args)
    check((weights, x, state), run(x, state))


def test_the_memory_plan_is_for_a_device() -> None:
    here = opened()
    plan = compiled(here).memory
    # weights and state are cut in two, x and y are whole.
    assert plan.arguments >= 16 + 96 + 16
    assert plan.reused == 16
    assert plan.total >= plan.arguments + plan.temporaries
    assert "temporaries" in str(plan)
    assert [value.shard_bytes for value in compiled(here).signature.inputs] == [16, 96, 16]


def test_cost_and_texts() -> None:
    exe = compiled(opened())
    assert exe.cost["flops"] > 0
    assert "stablehlo.multiply" in exe.stablehlo and "HloModule" in exe.hlo
    assert repr(exe).startswith("Exe(step: 3 inputs, 2 results, compiled in ")


@pytest.mark.parametrize("devices", [1, 2])
def test_a_serialized_program_runs_on_another_platform_of_that_kind(devices: int) -> None:
    blob = compiled(opened(devices)).serialize()
    here = opened(devices)
    exe = here.deserialize(blob)
    given = arguments(here)
    check(given, exe.bake(given[0])(*given[1:]))
    assert given[2].donated
    assert exe.serialize()[:14] == blob[:14]
    assert exe.memory.reused == 32 // devices


def test_a_program_for_other_devices_is_refused() -> None:
    blob = compiled(opened(2)).serialize()
    with pytest.raises(
        CompileError,
        match=r"step was compiled for another platform.* than cpu: devices: 2 x cpu, here 1 x cpu; topo",
    ):
        opened(1).deserialize(blob)


@pytest.mark.parametrize("damage", ["empty", "other", "short", "flipped"])
def test_bytes_that_are_no_program_are_refused(damage: str) -> None:
    here = opened(1)
    blob = bytearray(compiled(here).serialize())
    blob[len(blob) // 2] ^= 1
    bad = {
        "empty": b"",
        "other": b"\x7fELF and so on",
        "short": bytes(blob[:1000]),
        "flipped": bytes(blob),
    }[damage]
    with pytest.raises(CompileError, match=r"are no serialized program|is damaged"):
        here.deserialize(bad)


def test_a_program_without_arguments_and_scalars() -> None:
    here = opened()
    from zml import ops

    assert here.compile(lambda: ops.constant(2.5, dtype="f32"))().item() == 2.5
    add = here.compile(lambda x: x + 1, Shape({}, "i32"))
    assert add(here.put(Slice(np.int32(41)))).item() == 42
