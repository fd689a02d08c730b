"""Shardy is the default, GSPMD the option, for the thread that asks only."""

import threading

import jax
import jax.numpy as jnp

from zml.pjrt import cpu
from zml.shape import Shape
from zml.sharding import (
    HIGH_BANDWIDTH,
    LogicalMesh,
    Partitioner,
    Sharding,
    find_physical_mesh,
    partitioned_by,
)


def lowered() -> str:
    physical = find_physical_mesh(cpu.client(2).devices())
    sharding = Sharding.of("two", physical, LogicalMesh(model=HIGH_BANDWIDTH))
    where = sharding.named(Shape({"d": 4}, "f32", {"d": "model"}))
    abstract = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=where)
    return jax.jit(lambda x: x * 2).lower(abstract).as_text()


def test_the_partitioner_is_chosen_by_context_and_thread() -> None:
    assert "sdy.sharding" in lowered()
    elsewhere: list[str] = []
    with partitioned_by(Partitioner.GSPMD):
        inside = lowered()
        thread = threading.Thread(target=lambda: elsewhere.append(lowered()))
        thread.start()
        thread.join()
        with partitioned_by(Partitioner.SHARDY):
            assert "sdy.sharding" in lowered()
    assert "mhlo.sharding" in inside and "sdy.sharding" not in inside
    assert "sdy.sharding" in elsewhere[0] and "sdy.sharding" in lowered()
