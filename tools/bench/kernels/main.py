"""Single kernels by each instruction set that the processor has, beside XLA's own programs, in one run.

python -m tools.bench.kernels [--kernels=bf16,int8,...] [--rows=1,2,4,8,16,256,512,2048] [--isas=avx2,...] [--json]

Few rows are held against the bandwidth of memory just before and after, many against the peak of float32
multiplications and additions. Medians; ZML_CPU_KERNELS may name the library.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from tools.bench import child, limits
from tools.bench.command_line import cpus, names, numbers, use_cpus, users_path
from tools.bench.kernels.cases import KERNELS, Sizes
from tools.bench.limits import Limits

FEW = 16
"""Up to so many rows, reading the weights should be what takes the time."""
_ISAS = {
    "x86_64": ("avx512_bf16", "avx512", "avx2", "portable"),
    "aarch64": ("neon_bf16", "neon_dot", "neon", "portable"),
}
_ISAS["arm64"] = _ISAS["aarch64"]
_QUICK = {"rows": [1, 20], "seconds": 0.0, "probe_megabytes": 16, "hidden": 64, "ffn": 96,
          "heads": 4, "kv_heads": 2, "head_dim": 16, "context": 32, "cold_bytes": 1}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--kernels", type=names, default=list(KERNELS), help=f"of {', '.join(KERNELS)}")
    add("--rows", type=numbers, default=[1, 2, 4, 8, 16, 256, 512, 2048], help="of activations")
    add("--isas", type=names, default=list(_ISAS.get(platform.machine(), ("portable",))))
    add("--without_xla", action="store_true", help="the native kernels alone")
    add("--seconds", type=float, default=1.0, help="for which each is called, 3 times at least")
    add("--threads", type=int, default=cpus(), help="default: all that this process may use")
    add("--probe_megabytes", type=int, default=512, help="what the bandwidth probe reads")
    add("--lock", metavar="FILE", help="locked while a contender is measured, for shared machines")
    add("--quick", action="store_true", help="tiny sizes: does it work at all?")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    for field in fields(Sizes):
        add(f"--{field.name}", type=int, default=field.default)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 where a contender failed."""
    made, argv = parser(), sys.argv[1:] if argv is None else argv
    if made.parse_known_args(argv)[0].quick:
        made.set_defaults(**_QUICK)
    options = made.parse_args(argv)
    unknown = set(options.kernels) - KERNELS.keys()
    if unknown:
        made.error(f"--kernels: {', '.join(sorted(unknown))} is not known (--help lists them)")
    if min(*options.rows, options.threads) < 1:
        made.error("--rows and --threads are at least 1")
    use_cpus(options.threads)
    lock = child.Lock(users_path(options.lock) if options.lock else None)
    seen, answers = [], {}
    for contender in [*options.isas, *([] if options.without_xla else ["xla"])]:
        print(f"info(bench): {contender}", file=sys.stderr, flush=True)
        with lock.held():
            seen.append(limits.measure(options.threads, options.probe_megabytes))
        answers[contender] = child.run(None, "tools.bench.kernels.worker", _job(options, contender), lock)  # fmt: skip
    found = limits.combined(seen)
    if options.json:
        print(json.dumps({"limits": found.json(), "settings": vars(options), "results": answers}))
    else:
        print(table(answers, found, options.kernels, options.rows))
    return 1 if any("error" in answer for answer in answers.values()) else 0


def _job(options: argparse.Namespace, contender: str) -> dict[str, Any]:
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    return {
        "contender": contender,
        "kernels": options.kernels,
        "rows": options.rows,
        "seconds": options.seconds,
        "few": FEW,
        "threads": options.threads,
        "probe_megabytes": options.probe_megabytes,
        "sizes": asdict(sizes),
    }


def table(
    answers: dict[str, dict[str, Any]], found: Limits, kernels: Sequence[str], rows: Sequence[int]
) -> str:
    """GB/s of few rows and GFLOP/s of many, with the share of the limit, a contender a column."""
    there = [name for name, answer in answers.items() if "kernels" in answer]
    lines = [
        f"{found.threads} threads; read {found.read.median:.1f} GB/s ({found.read.how}), "
        f"f32 peak {found.f32.median:.0f} GFLOP/s ({found.f32.how}), "
        f"bf16 {found.bf16.median:.0f} ({found.bf16.how})",
        f"up to {FEW} rows: GB/s of weights and % of read; more: GFLOP/s and % of the f32 peak",
        f"{'':18}{'rows':>6}" + "".join(f"{name:>18}" for name in there),
    ]
    for name in kernels:
        for count in rows:
            cells = [_cell(answers[x]["kernels"][name][str(count)], count, found) for x in there]
            lines.append(f"{name:18}{count:6}" + "".join(f"{cell:>18}" for cell in cells))
    for name, answer in answers.items():
        if name not in there:
            lines.append(f"{name}: {answer.get('unavailable') or answer['error']}")
        elif child.is_noisy(answer):
            lines.append(
                f"{name}: noisy, {answer['other_cpu']:.0%} of the processors' time went elsewhere"
            )
    return "\n".join(lines)


def _cell(result: dict[str, float], rows: int, found: Limits) -> str:
    if rows <= FEW:
        rate, share = result["bytes"] / result["seconds"] / 1e9, result["share_of_read"]
    else:
        rate = result["flops"] / result["seconds"] / 1e9
        share = rate / found.f32.median
    return f"{rate:.1f} {share:6.1%}"
