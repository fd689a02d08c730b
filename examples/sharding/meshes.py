"""What joins the devices, what is cut over them, and who gets which part."""

import zml
from zml.sharding import Geometry

LOGICAL = zml.LogicalMesh(data=zml.LOW_BANDWIDTH, model=zml.HIGH_BANDWIDTH)
"""What models name: a model's axes are cut over `model`, the batch over `data`. No sizes, no devices."""
FOLD = zml.Strategy(model=("bus", "link"), data="link_x")
"""`model` over the outermost and the innermost level of the tree, which are no neighbours in it."""


def imagined(platform: zml.Platform) -> zml.PhysicalMesh:
    """The platform's eight devices as if they were two hosts, with two islands each, of two devices each."""
    return zml.PhysicalMesh.given(
        platform.devices,
        bus=(2, Geometry.TREE),
        link_x=(2, Geometry.RING),
        link=(2, Geometry.POINT_TO_POINT),
    )


def register(platform: zml.Platform) -> list[zml.Sharding]:
    """Three shardings of the same logical mesh: found devices, a suggested strategy, and a fold."""
    mesh = imagined(platform)
    return [
        platform.sharding("found", LOGICAL),
        platform.sharding("suggested", LOGICAL, mesh=mesh),
        platform.sharding("folded", LOGICAL, FOLD, mesh=mesh),
    ]


def show(platform: zml.Platform, shardings: list[zml.Sharding]) -> None:
    """Prints all of it."""
    print(platform, end="\n\n")
    print("As found:", platform.mesh, sep="\n", end="\n\n")
    print("As imagined:", imagined(platform), sep="\n", end="\n\n")
    print(LOGICAL, end="\n\n")
    for sharding in shardings:
        print(sharding.strategy, sharding, sep="\n", end="\n\n")
    shapes = [
        zml.Shape({"b": 16, "d": 1024}, "bf16", {"b": "data"}),
        zml.Shape({"f": 4096, "d": 1024}, "bf16", {"f": "model"}),
        zml.Shape({"b": 16, "f": 4096}, "bf16", {"b": "data", "f": "model"}),
        zml.Shape({"d": 1024}, "f32"),
    ]
    for sharding in shardings[1:]:
        for shape in shapes:
            print(zml.Placement.of(sharding, shape))
        print()
