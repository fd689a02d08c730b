"""Compiles all programs of a model (prefill in its buckets, decode) into a folder."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

from examples import command
from zml import log
from zml.errors import UsageError

_USAGE = """\
Compiles the programs of a model into a folder, for `llm --executables=FOLDER`.

  compile --target=cpu --output=demo-programs                   the embedded demo model, for this machine's CPU
  compile --target=cuda:h100x4 --model=/models/Llama-3.1-8B-Instruct --output=/models/llama-h100x4
  compile --target=tpu:v5e:2x2 --model=... --output=...

Weights are not read, but for their shapes. Targets without a colon are platforms of this machine.
"""
_DEMO = Path(__file__).resolve().parents[2] / "examples/llm/demo"


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return command.run("compile", _main, argv)


def _define() -> flags.FlagValues:
    values = flags.FlagValues()
    text = partial(flags.DEFINE_string, flag_values=values)
    number = partial(flags.DEFINE_integer, flag_values=values, lower_bound=1)
    text("model", None, "Folder of a checkpoint. Default: the embedded demo.")
    text("target", None, "What to compile for: cuda:h100x4, tpu:v5e:2x2, cpu, cuda, ...")
    text("output", None, "The folder to write; it is made.")
    number("seqlen", None, "Context in tokens, as for llm.")
    text("dtype", "auto", "As for llm.")
    text("quantize", "none", "As for llm.")
    text("backend", "auto", "The attention backend, as for llm.")
    number("cpu_device_count", None, "Split the CPU into so many devices.")
    number("timeout_seconds", 1800, "The longest that one program may take to compile.")
    flags.DEFINE_boolean("debug", False, "Show debug log lines.", flag_values=values)
    return values


def _main(argv: Sequence[str]) -> None:
    values = _define()
    if not command.parse(values, argv, _USAGE):
        return
    for name in ("target", "output"):
        if not getattr(values, name):
            raise UsageError(f"--{name} is missing (--help shows examples)")
    log.to_stderr(10 if values.debug else 20)
    # Here and not above: these import jax, which --help and wrong flags need not wait for.
    from zml.llm.engine import Engine
    from zml.platform import CpuOptions, Platform

    devices = values.cpu_device_count
    if ":" in values.target:
        if devices is not None:
            raise UsageError(f"--cpu_device_count is for --target=cpu, not for {values.target}")
        platform = Platform.describe(values.target, timeout_seconds=values.timeout_seconds)
    else:
        platform = command.open_platform(values.target, CpuOptions(devices) if devices else None)
    model = values.model or str(_DEMO)
    if "://" not in model:
        model = str(command.users_path(model))
    engine = Engine.open(
        model, platform, values.dtype, values.seqlen, values.backend, values.quantize
    )
    print(engine.save_programs(command.users_path(values.output)))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
