"""How long it takes to compile prefill and decode of a Llama with 16 layers: cold, and from the executable cache.

Each in a process of its own, as a user meets it; imports and opening the platform are not counted.
python -m tools.bench.compile [--layers=16] [--dtype=f32] [--bucket=256] [--devices=1] [--json]
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
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--bucket", type=int, default=256)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
