"""The same product by hand: each device works on its shard, and the program says when they talk."""

import numpy as np

import zml
from zml.sharding import manual, manual_computation


def run(platform: zml.Platform, sharding: zml.Sharding) -> bool:
    """Sums partial products with collectives, rotates shards around a ring; whether all is as numpy has it."""
    x = zml.Shape({"b": 8, "d": 32}, "f32", {"b": "data", "d": "model"})
    w = zml.Shape({"d": 32, "f": 16}, "f32", {"d": "model"})
    whole = zml.Shape({"b": 8, "f": 16}, "f32", {"b": "data"})

    def shard(x: zml.Tensor, w: zml.Tensor) -> tuple[zml.Tensor, zml.Tensor, zml.Tensor]:
        # Here the shapes are those of one device: {b=4,d=8} and {d=8,f=16} where `model` cuts in four, `data` in two.
        partial = x.dot(w, "d")
        ring = [(i, (i + 1) % shards) for i in range(shards)]
        return (
            manual.all_reduce(partial, "model"),
            manual.reduce_scatter(partial, "model", "f"),
            manual.ppermute(x, "model", ring),
        )

    def program(x: zml.Tensor, w: zml.Tensor) -> tuple[zml.Tensor, zml.Tensor, zml.Tensor]:
        return manual_computation(shard, sharding, [x.shape, w.shape], outputs)(x, w)

    outputs = (whole, whole.partitioned(f="model"), x)
    shards = sharding.size("model")
    exe = platform.compile(program, x, w, shardings=[sharding], name="by_hand")
    rng = np.random.default_rng(1)
    left, right = (rng.normal(size=shape.dims).astype(np.float32) for shape in (x, w))
    results = exe(
        platform.put(left, x, sharding=sharding), platform.put(right, w, sharding=sharding)
    )
    step = left.shape[1] // shards
    expected = left @ right, left @ right, np.roll(left, step, axis=1)
    print(f"{exe.name} under {sharding.name!r}, {shards} shards along 'model'")
    good = True
    for what, buffer, wanted in zip(
        ("all_reduce", "reduce_scatter", "ppermute"), results, expected, strict=True
    ):
        same = np.allclose(buffer.numpy(), wanted, atol=1e-4)
        good &= same
        print(f"  {what:<14} {buffer.shape}: {'equal' if same else 'DIFFERENT'}")
    collectives = ("all-reduce", "reduce-scatter", "collective-permute", "all-gather")
    used = [name for name in collectives if f" {name}(" in exe.hlo or f" {name}-start(" in exe.hlo]
    print(f"  collectives in the compiled program: {', '.join(used)}")
    return good
