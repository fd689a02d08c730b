"""A random Llama through zml, llama.cpp and transformers in turns, beside what this machine can do at most.

python -m tools.bench.llm [--peer_python=PATH ...] [--formats=bf16,int8,int4] [--rounds=3] [--json]

Each round runs every contender once, in a process of its own; medians are reported. Peers run in interpreters of their
own, where llama-cpp-python or torch and transformers are installed.
"""

import argparse
import datetime
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tools.bench import child, limits
from tools.bench.command_line import cpus, names, numbers, use_cpus, users_path
from tools.bench.llm import checkpoint, report
from tools.bench.llm.checkpoint import Size
from tools.bench.llm.contenders import FORMATS, PAIR_STEPS, Work, find_peers, select

_QUICK = {
    "layers": 2, "hidden": 64, "ffn": 128, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 256,
    "max_positions": 512, "prefill": [8, 24], "decode": [8, 40], "decode_tokens": 4, "rounds": 1, "pairs": 2,
    "probe_megabytes": 16,
}  # fmt: skip
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="llm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--peer_python", action="append", default=[], metavar="PATH",
        help="an interpreter with llama_cpp, or torch and transformers; may be repeated")  # fmt: skip
    add("--formats", type=names, default=["bf16", "int8", "int4"],
        help="of bf16, int8 (llama.cpp: q8_0), int4 (q4_0), f32 (not llama.cpp); default: the first three")  # fmt: skip
    add("--only", type=names, default=[], help="of zml, llama.cpp, transformers, limits")
    add("--rounds", type=int, default=3)
    add("--prefill", type=numbers, default=[256, 2048], help="prompt lengths that are timed")
    add("--decode", type=numbers, default=[256, 4096],
        help="contexts to decode at, one for each prefill and not shorter: its prompt goes on to there")  # fmt: skip
    add("--decode_tokens", type=int, default=32)
    add(
        "--first_prompt",
        type=int,
        default=8,
        help="tokens of the prompt before the first token that is timed",
    )
    add("--pairs", type=int, default=6,
        help="short decodes, each between two probes of the bandwidth, that the share of it is taken from")  # fmt: skip
    add("--threads", type=int, default=cpus(), help="default: all that this process may use")
    add("--work_dir", help="for checkpoints and GGUF files, 6 GB by default, and compiled programs")
    add("--lock", metavar="FILE", help="locked while a contender is measured, for shared machines")
    add("--llama_ubatch", type=int, default=512, help="llama.cpp's n_batch and n_ubatch")
    add("--llama_flash_attn", choices=FLASH_ATTENTION, default="auto")
    add("--probe_megabytes", type=int, default=1024, help="what the bandwidth probe reads")
    add("--quick", action="store_true", help="a tiny model, one round: does it work at all?")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    for field in fields(Size):
        add(f"--{field.name}", type=int, default=field.default)
    return made


def options_of(argv: Sequence[str]) -> argparse.Namespace:
    """The checked flags; --quick changes the defaults of others. Exits with a message on misuse."""
    made = parser()
    if made.parse_known_args(argv)[0].quick:
        made.set_defaults(**_QUICK)
    options = made.parse_args(argv)
    longest = max(options.decode) + options.decode_tokens + options.pairs * PAIR_STEPS + 2
    wrong = {
        "--formats": set(options.formats) - set(FORMATS),
        "--only": set(options.only) - {"zml", "llama.cpp", "transformers", "limits"},
    }
    for flag, unknown in wrong.items():
        if unknown:
            made.error(f"{flag}: {', '.join(sorted(unknown))} is not known (--help lists them)")
    if len(options.prefill) != len(options.decode):
        made.error("--prefill and --decode go in pairs: give as many of each")
    for prefill, decode in zip(options.prefill, options.decode, strict=True):
        if not 1 <= prefill <= decode:
            made.error(f"a prompt of {decode} tokens has no prefill of {prefill}")
    for name in ("rounds", "decode_tokens", "threads", "llama_ubatch", "first_prompt", "pairs"):
        if getattr(options, name) < 1:
            made.error(f"--{name} is at least 1")
    if options.first_prompt > options.decode[0]:
        made.error(
            f"--first_prompt={options.first_prompt} is taken from a prompt of {options.decode[0]}"
        )
    if longest > options.max_positions:
        made.error(f"--decode needs {longest} positions, --max_positions is {options.max_positions}")  # fmt: skip
    if options.head_dim % 2 or options.heads % options.kv_heads:
        made.error("--head_dim is even, and --heads a multiple of --kv_heads")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 where a contender failed."""
    options = options_of(sys.argv[1:] if argv is None else argv)
    use_cpus(options.threads)
    size = Size(**{field.name: getattr(options, field.name) for field in fields(Size)})
    folder = users_path(options.work_dir) if options.work_dir else default_folder()
    llama = {"ubatch": options.llama_ubatch, "flash_attn": FLASH_ATTENTION[options.llama_flash_attn]}  # fmt: skip
    peers = find_peers(options.peer_python)
    contenders = select(options.formats, peers, options.only, llama)
    work = Work(
        size,
        checkpoint.write(size, folder) if contenders else folder,
        _runs(options.prefill, options.decode, size.vocab),
        options.decode_tokens,
        options.threads,
        first_prompt=options.first_prompt,
        pairs=options.pairs,
        probe_megabytes=options.probe_megabytes,
    )
    lock = child.Lock(users_path(options.lock) if options.lock else None)
    seen = []
    for number in range(options.rounds):
        _say(f"round {number + 1} of {options.rounds}: limits")
        with lock.held():
            seen.append(limits.measure(options.threads, options.probe_megabytes))
        for contender in contenders:
            if not contender.problem:
                _say(f"round {number + 1} of {options.rounds}: {contender.name} {contender.format}")
            contender.measure(work, lock)
    found = limits.combined(seen)
    if options.json:
        print(json.dumps(_report(options, work, found, seen, contenders)))
    else:
        print(report.table(contenders, work, found))
    return 1 if any(x.problem for x in contenders) else 0


def _runs(prefills: Sequence[int], contexts: Sequence[int], vocab: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {"prefill": prefill, "prompt": [rng.randrange(vocab) for _ in range(context)]}
        for prefill, context in zip(prefills, contexts, strict=True)
    ]


def default_folder() -> Path:
    """Where checkpoints are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "zml" / "bench"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"zml-bench-{os.getuid()}"


def _say(text: str) -> None:
    print(f"info(bench): {text}", file=sys.stderr, flush=True)


def _report(
    options: argparse.Namespace,
    work: Work,
    found: limits.Limits,
    seen: Sequence[limits.Limits],
    contenders: Sequence[Any],
) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(options.threads),
        "python": platform.python_version(),
        "model": {
            **asdict(work.size),
            "prefill_flops": {str(n): work.size.prefill_flops(n) for n in options.prefill},
        },
        "settings": {
            name: getattr(options, name)
            for name in (
                "rounds",
                "prefill",
                "decode",
                "decode_tokens",
                "first_prompt",
                "pairs",
                "threads",
                "formats",
            )
        },
        "limits": {**found.json(), "rounds": [x.json() for x in seen]},
        "formats": report.as_json(contenders, work, found),
    }


def machine(threads: int) -> dict[str, Any]:
    """What is measured on, for a report."""
    name, flags = platform.processor(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        values = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        name = values.get("model name", name)
        flags = values.get("flags", values.get("Features", ""))
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cpu": name,
        "cpus": os.cpu_count(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpu_flags": flags.split(),
    }
