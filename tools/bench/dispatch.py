"""What a call costs on the host: a Runner beside jaxlib's bare call and jax.jit calls of the same 303 arguments.

jax.jit is given them in three forms: as a flat list of arrays, as dicts of arrays a layer (how JAX programs keep
weights), and as the zml model of Tensors, which is what the Runner takes the place of.

python -m tools.bench.dispatch [--weights=300] [--rounds=2000] [--devices=1] [--json]
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zml.model_tree import model
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.tensor import Tensor

_SHAPE = Shape({"d": 16}, "f32")
_FIELDS = ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down", "bias")


@model
class Layer:
    """Ten weights."""

    attention_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    bias: Tensor


def program(layers: list[Layer], x: Tensor, y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Next to no work: what is timed is the way there and back."""
    total = x + y + layers[0].q + layers[-1].down
    return total, (state + total).reuse_buffer(state)


def on_arrays(layers: list[Any], x: Any, y: Any, state: Any) -> tuple[Any, Any]:
    """The same for JAX."""
    total = x + y + layers[0]["q"] + layers[-1]["down"]
    return total, state + total


def on_list(weights: list[Any], x: Any, y: Any, state: Any) -> tuple[Any, Any]:
    """The same for JAX, of a flat list."""
    total = x + y + weights[1] + weights[-2]
    return total, state + total


def measure(weights: int, rounds: int, devices: int) -> dict[str, float]:
    """Median microseconds of each kind of call, taken in turns, the result waited for outside of the time."""
    platform = Platform.init("cpu", CpuOptions(devices))
    declared: Any = [Layer(*[Tensor.declare(_SHAPE)] * 10) for _ in range(weights // 10)]
    exe = platform.compile(program, declared, _SHAPE, _SHAPE, _SHAPE)
    value = np.ones(16, np.float32)
    loaded = jax.tree.map(
        lambda _: platform.put(value, _SHAPE), declared, is_leaf=lambda x: isinstance(x, Tensor)
    )
    x, y = platform.put(value, _SHAPE), platform.put(value, _SHAPE)
    runner = exe.bake(loaded)
    arrays = [buffer.array for buffer in jax.tree.leaves(loaded)]
    dicts = [dict(zip(_FIELDS, arrays[i : i + 10], strict=True)) for i in range(0, len(arrays), 10)]
    tensors = jax.tree.map(lambda buffer: Tensor(buffer.array, ("d",)), (loaded, x, y))
    bare = exe.program.raw.execute_sharded
    jit_list, jit_dicts, jit_model = (
        jax.jit(f, donate_argnums=3) for f in (on_list, on_arrays, program)
    )
    calls: dict[str, Callable[[Any], Any]] = {
        "bare": lambda state: bare([*arrays, x.array, y.array, state.array]),
        "zml": lambda state: runner(x, y, state),
        "jit_list": lambda state: jit_list(arrays, x.array, y.array, state.array),
        "jit_dicts": lambda state: jit_dicts(dicts, x.array, y.array, state.array),
        "jit_model": lambda state: jit_model(*tensors, Tensor(state.array, ("d",))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(platform.put(value, _SHAPE))
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                state = platform.put(value, _SHAPE).wait()
                began = time.perf_counter()
                result = call(state)
                seconds[name].append(time.perf_counter() - began)
                # The next call must not find the device at work.
                if name == "bare":
                    result.disassemble_into_single_device_arrays()[0][0].block_until_ready()
                else:
                    first = result[0]
                    getattr(first, "array", getattr(first, "value", first)).block_until_ready()
                del result
    finally:
        gc.enable()
    return {name: statistics.median(times) * 1e6 for name, times in seconds.items()}


def main() -> None:
    """Prints the medians, zml's distance from the bare call, and its share of a jax.jit call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=300, help="a multiple of 10")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.weights < 10 or options.weights % 10:
        parser.error(f"--weights={options.weights}: expected a multiple of 10")
    found = measure(options.weights, options.rounds, options.devices)
    over = found["zml"] - found["bare"]
    if options.json:
        rounded = {f"{name}_us": round(us, 1) for name, us in found.items()}
        head = {"arguments": options.weights + 3, "devices": options.devices}
        print(json.dumps({**head, **rounded, "over_bare_us": round(over, 1)}))
        return
    print(
        f"{options.weights} baked weights and 3 arguments on {options.devices} cpu device(s), medians:"
    )
    print(f"  jaxlib's bare execute_sharded   {found['bare']:7.1f} us")
    print(f"  zml Runner                      {found['zml']:7.1f} us  ({over:+.1f} us)")
    for name, form in {
        "list": "a list of arrays",
        "dicts": "dicts of arrays",
        "model": "the model of Tensors",
    }.items():
        us = found[f"jit_{name}"]
        print(
            f"  jax.jit, {form:<22} {us:7.1f} us  (the Runner takes {found['zml'] / us:.2f} of it)"
        )


if __name__ == "__main__":
    main()
