"""The benchmark example: a matrix product in GFLOP/s, and its share of the peak measured in the same run."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from examples.command import open_platform, parse, run
from zml.errors import UsageError

if TYPE_CHECKING:
    from examples.benchmark.measure import Timing

_USAGE = """\
Times a matrix product through platform.compile, and says which share that is of what this machine can do.

  benchmark --size=1,4096,4096 --dtype=bf16

The peak is measured in the same run: the fastest call of square products in the same element type, and, on the CPU, of
numpy's float32 products, which its BLAS computes. It is a lower bound of what the hardware can do.
"""


def define() -> flags.FlagValues:
    """The flags."""
    values = flags.FlagValues()
    flags.DEFINE_list(
        "size", ["1024", "1024", "1024"], "m,k,n: [m,k] times [k,n].", flag_values=values
    )
    flags.DEFINE_enum(
        "dtype", "f32", ["f32", "bf16", "f16", "i8"], "Element type of the operands; sums of i8 are i32.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("platform", "auto", "auto, cpu, cuda, ...", flag_values=values)
    flags.DEFINE_float(
        "seconds",
        1.0,
        "How long each product is repeated; at least 5 calls.",
        0.0,
        flag_values=values,
    )
    flags.DEFINE_list(
        "peak_sizes", ["512", "1024", "2048"], "Sides of the squares that the peak is looked for with.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_boolean("json", False, "Print one JSON object.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run("benchmark", _main, argv)


def _main(argv: Sequence[str]) -> None:
    options = define()
    if not parse(options, argv, _USAGE):
        return
    size = _numbers("size", options.size)
    if len(size) != 3:
        raise UsageError(
            f"--size={','.join(options.size)}: expected three numbers m,k,n, such as 1,4096,4096"
        )
    sides = _numbers("peak_sizes", options.peak_sizes)
    from examples.benchmark.measure import squares, through_numpy, through_platform

    platform = open_platform(options.platform)
    asked = through_platform(platform, (size[0], size[1], size[2]), options.dtype, options.seconds)
    peers = squares(
        lambda square: through_platform(platform, square, options.dtype, options.seconds),
        sides,
        options.seconds,
    )
    if platform.target == "cpu":
        peers += squares(
            lambda square: through_numpy(square, options.seconds), sides, options.seconds
        )
    peak = max([asked, *peers], key=lambda timing: timing.best_gflops)
    if options.json:
        print(json.dumps(_report(platform, options.dtype, asked, peers, peak)))
        return
    for timing in [*peers, asked]:
        print(_line(timing))
    print(f"peak: {peak.best_gflops:.1f} GFLOP/s, the fastest call of {_name(peak)}")
    print(f"{_name(asked)}: {asked.gflops / peak.best_gflops:.1%} of it on {platform.device_name}")


def _numbers(name: str, items: Sequence[str]) -> list[int]:
    if not items or not all(item.isascii() and item.isdigit() and int(item) for item in items):
        raise UsageError(
            f"--{name}={','.join(items)}: expected integers of 1 or more, separated by commas"
        )
    return [int(item) for item in items]


def _name(timing: "Timing") -> str:
    return f"{timing.what} {' x '.join(map(str, timing.size))}"


def _line(timing: "Timing") -> str:
    return (
        f"{_name(timing):<32} {timing.gflops:>9.1f} GFLOP/s  median {1e3 * timing.median:.3f} ms, "
        f"best {1e3 * timing.best:.3f} ms of {timing.calls} calls"
    )


def _report(
    platform: Any, dtype: str, asked: "Timing", peers: "list[Timing]", peak: "Timing"
) -> dict[str, Any]:
    def one(timing: "Timing") -> dict[str, Any]:
        return {
            "what": timing.what,
            "size": timing.size,
            "gflops": timing.gflops,
            "best_gflops": timing.best_gflops,
            "median_seconds": timing.median,
            "best_seconds": timing.best,
            "calls": timing.calls,
        }

    return {
        "platform": platform.target.value,
        "device": platform.device_name,
        "dtype": dtype,
        **one(asked),
        "peak_gflops": peak.best_gflops,
        "peak_of": _name(peak),
        "ratio": asked.gflops / peak.best_gflops,
        "peers": [one(timing) for timing in peers],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv))
