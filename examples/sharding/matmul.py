"""A matrix product that the compiler cuts: Placement and the compiled program agree on who has which part."""

import numpy as np

import zml


def product(x: zml.Tensor, w: zml.Tensor) -> zml.Tensor:
    """{b,d} and {d,f} -> {b,f}, cut along both of its axes."""
    return x.dot(w, "d").partitioned(b="data", f="model")


def run(platform: zml.Platform, sharding: zml.Sharding) -> int:
    """Compiles and runs it, compares each device's slice with numpy's; the number of devices that agree."""
    x = zml.Shape({"b": 8, "d": 32}, "f32", {"b": "data"})
    w = zml.Shape({"d": 32, "f": 16}, "f32", {"f": "model"})
    exe = platform.compile(product, x, w, shardings=[sharding])

    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=shape.dims).astype(np.float32) for shape in (x, w))
    given = platform.put(left, x, sharding=sharding), platform.put(right, w, sharding=sharding)
    result, expected = exe(*given), left @ right

    placement = zml.Placement.of(sharding, result.shape)
    on_device = {part.device.id: np.asarray(part.data) for part in result.array.addressable_shards}
    agree = 0
    print(f"{exe.name} under {sharding.name!r}: {x} . {w} -> {result.shape}")
    for shard in placement.shards:
        mine = on_device[shard.device.id]
        same = mine.shape == shard.dims and np.allclose(mine, expected[shard.index], atol=1e-4)
        agree += same
        ranges = ", ".join(
            f"{tag}={start}:{stop}"
            for tag, (start, stop) in zip(result.shape.tags, shard.ranges, strict=True)
        )
        print(f"  {shard.device} has {ranges}: {'equal' if same else 'DIFFERENT'}")
    return agree
