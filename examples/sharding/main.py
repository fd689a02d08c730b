"""The sharding example: prints meshes and placements, then runs cut programs on eight devices made of the CPU."""

import sys
from collections.abc import Sequence

from absl import flags

from examples.command import parse, run
from zml.errors import ZmlError

_USAGE = """\
Shows how values are cut over devices, on eight virtual devices of the CPU: the platform, its meshes, strategies,
shardings and placements; a matrix product that the compiler cuts; one that is cut by hand.

  sharding
"""
DEVICES = 8


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run("sharding", _main, argv)


def _main(argv: Sequence[str]) -> None:
    if not parse(flags.FlagValues(), argv, _USAGE):
        return
    import zml
    from examples.sharding import manual, matmul, meshes

    platform = zml.Platform.init("cpu", zml.CpuOptions(DEVICES))
    shardings = meshes.register(platform)
    meshes.show(platform, shardings)
    agree = [matmul.run(platform, sharding) for sharding in shardings]
    print()
    # On one bus `data` and `model` share the devices, so the first sharding has nothing to cut `model` over here.
    good = [manual.run(platform, sharding) for sharding in shardings[1:]]
    if agree != [DEVICES] * len(shardings) or not all(good):
        raise ZmlError("a device has another value than numpy: see DIFFERENT above")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
