"""How long it takes to compile prefill and decode of a Llama with 16 layers: cold, and from the executable cache.

Each in a process of its own, as a user meets it; imports and opening the platform are not counted.
python -m tools.bench.compile [--layers=16] [--dtype=f32] [--bucket=256] [--devices=1] [--json]

With --target, all programs of a Llama of 8B weights (32 layers, bf16) for hardware that is not here: the seconds and
the memory of each, and what it will take of the devices' memory.
python -m tools.bench.compile --target=cuda:h100 [--layers=32] [--json]
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.bench import environment
from zml.compile import ExecutableCache
from zml.io import View
from zml.llm.programs import Deployment, Programs
from zml.models import architecture
from zml.platform import CpuOptions, Platform


def config(layers: int) -> dict[str, object]:
    """A Llama of a billion weights: the size does not matter to the compiler, the number of layers does."""
    return {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
    }  # fmt: skip


def config_8b(layers: int) -> dict[str, object]:
    """The shapes of Llama 3.1 8B."""
    return config(layers) | {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
    }  # fmt: skip


def described(target: str, layers: int) -> dict[str, dict[str, float]]:
    """A row for each program."""
    logging.disable(logging.WARNING)
    platform = Platform.describe(target)
    arch = architecture("llama")
    sizes = arch.read_config(config_8b(layers))
    deployment = Deployment.of(platform, arch, sizes, View.blank("bf16"), 2048)
    programs = Programs(deployment)
    rows = {}
    for tokens in deployment.steps():
        exe = programs.compile(tokens)
        rows[exe.name] = {
            "seconds": round(exe.seconds, 3),
            "peak_bytes": exe.program.raw.peak_bytes,
            "temporaries": exe.memory.temporaries,
            "serialized_bytes": len(exe.serialize()),
        }
    return rows


def once(options: argparse.Namespace) -> dict[str, object]:
    """Compiles both programs in this process, with the cache in the folder given."""
    cache = ExecutableCache(Path(options.cache))
    platform = Platform.init("cpu", CpuOptions(options.devices), cache=cache)
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    arch = architecture("llama")
    sizes = arch.read_config(config(options.layers))
    deployment = Deployment.of(platform, arch, sizes, View.blank(options.dtype), 2048)
    programs = Programs(deployment)
    exes = [programs.compile(options.bucket), programs.compile(1)]
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "cached": all(exe.cached for exe in exes),
        **{exe.name: round(exe.seconds, 3) for exe in exes},
    }


def main() -> None:
    """Prints the seconds of a cold and of a cached compilation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", help="such as cuda:h100 or tpu:v5e:2x2")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--bucket", type=int, default=256)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.layers = options.layers or (32 if options.target else 16)
    if options.target:
        print_described(options)
        return
    if options.cache:
        print(json.dumps(once(options)))
        return
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "cached"):
            command = [
                sys.executable,
                "-m",
                "tools.bench.compile",
                *sys.argv[1:],
                f"--cache={folder}/c",
            ]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment()
            )
            report[name] = json.loads(done.stdout)
            if report[name]["cached"] != (name == "cached"):
                raise SystemExit(f"{name}: expected cached={name == 'cached'}, got {report[name]}")
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"Llama, {options.layers} layers, {options.dtype}, prefill of {options.bucket} tokens and decode:"
    )
    for name, row in report.items():
        parts = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("seconds", "cached"))
        print(f"  {name:<7} {row['seconds']:7.3f} s  ({parts})")


def print_described(options: argparse.Namespace) -> None:
    """The table for --target."""
    rows = described(options.target, options.layers)
    if options.json:
        print(json.dumps(rows))
        return
    print(f"Llama 8B, {options.layers} layers, bf16, for {options.target}:")
    for name, row in rows.items():
        print(
            f"  {name:<12} {row['seconds']:7.3f} s, compiler's memory {row['peak_bytes'] / 1e9:.2f} GB, temporaries "
            f"{row['temporaries'] / 1e6:.1f} MB, executable {row['serialized_bytes'] / 1e6:.1f} MB"
        )
    print(f"  {'all':<12} {sum(row['seconds'] for row in rows.values()):7.3f} s")


if __name__ == "__main__":
    main()
