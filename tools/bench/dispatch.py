"""What a call costs on the host: a Runner beside jaxlib's bare call and a jax.jit call of the same 303 arguments.

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

from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.tensor import Tensor

_SHAPE = Shape({"d": 16}, "f32")


def program(weights: list[Tensor], x: Tensor, y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Next to no work: what is timed is the way there and back."""
    total = x + y
    for weight in weights[:1] + weights[-1:]:
        total = total + weight
    return total, (state + total).reuse_buffer(state)


def measure(weights: int, rounds: int, devices: int) -> dict[str, float]:
    """Median microseconds of each kind of call, taken in turns, the result waited for outside of the time."""
    platform = Platform.init("cpu", CpuOptions(devices))
    exe = platform.compile(program, [_SHAPE] * weights, _SHAPE, _SHAPE, _SHAPE)
    value = np.ones(16, np.float32)
    baked = [platform.put(value, _SHAPE) for _ in range(weights)]
    x, y = platform.put(value, _SHAPE), platform.put(value, _SHAPE)
    runner = exe.bake(baked)
    arrays = [buffer.array for buffer in (*baked, x, y)]
    bare = exe.program.raw.execute_sharded

    def plain(weights: list[Any], x: Any, y: Any, state: Any) -> tuple[Any, Any]:
        tensors = jax.tree.map(lambda a: Tensor(a, ("d",)), (weights, x, y, state))
        return tuple(tensor.value for tensor in program(*tensors))  # type: ignore[return-value]

    jitted = jax.jit(plain, donate_argnums=3)
    calls: dict[str, Callable[[Any], Any]] = {
        "bare": lambda state: bare([*arrays, state.array]),
        "zml": lambda state: runner(x, y, state),
        "jit": lambda state: jitted(arrays[:weights], x.array, y.array, state.array),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        call(platform.put(value, _SHAPE))
        assert name in seconds
    gc.disable()
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
                getattr(result[0], "array", result[0]).block_until_ready()
            del result
    return {name: statistics.median(times) * 1e6 for name, times in seconds.items()}


def main() -> None:
    """Prints the medians, zml's distance from the bare call, and its share of a jax.jit call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.weights, options.rounds, options.devices)
    report = {
        "arguments": options.weights + 3,
        "devices": options.devices,
        **{f"{name}_us": round(us, 1) for name, us in found.items()},
        "over_bare_us": round(found["zml"] - found["bare"], 1),
        "share_of_jit": round(found["zml"] / found["jit"], 3),
    }
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"{options.weights} baked weights and 3 arguments on {options.devices} cpu device(s), medians:"
    )
    print(f"  jaxlib's bare execute_sharded  {found['bare']:7.1f} us")
    print(
        f"  zml Runner                     {found['zml']:7.1f} us  ({report['over_bare_us']:+} us)"
    )
    print(
        f"  jax.jit                        {found['jit']:7.1f} us  (zml is {report['share_of_jit']} of it)"
    )


if __name__ == "__main__":
    main()
