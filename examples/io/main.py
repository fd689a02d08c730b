"""The io example: one command line for files of every scheme that zml reads."""

import sys
from collections.abc import Callable, Sequence

from absl import flags

from examples.command import parse_arguments, reading_options, run
from zml import log
from zml.errors import UsageError

_USAGE = """\
Reads files wherever they are: a path, or a URL of file://, http://, https://, s3://, gs:// or hf://.

  io ls URL                 what is in a folder, or fits a pattern (*, ?, [...], **)
  io tree URL               all that is below a folder, with sizes
  io stat URL               size, version and checksum of a file
  io cat URL                its bytes to stdout
  io cp URL... PATH         files, folders and patterns to a local file or folder
  io safetensors URL        the tensors of a file or a checkpoint, by name, with their sizes; reads headers only
  io load URL               all its tensors onto the devices: GiB/s
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run("io", _main, argv)


def _main(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    flags.DEFINE_boolean(
        "overwrite", False, "cp: replace files that are there.", flag_values=values
    )
    flags.DEFINE_string("cache", None, "Keep remote files in this folder.", flag_values=values)
    flags.DEFINE_boolean(
        "shard", False, "load: cut every tensor over all devices.", flag_values=values
    )
    flags.DEFINE_string(
        "platform", "auto", "load: auto, cpu, cuda, rocm, tpu or neuron.", flag_values=values
    )
    flags.DEFINE_integer(
        "cpu_device_count",
        None,
        "load: split the CPU into so many devices.",
        lower_bound=1,
        upper_bound=256,
        flag_values=values,
    )
    flags.DEFINE_boolean("debug", False, "Show debug log lines.", flag_values=values)
    arguments = parse_arguments(values, argv, _USAGE)
    if arguments is None:
        return
    # Here and not above: what --help need not wait for.
    from examples.io import files, tensors
    from zml.vfs import Vfs

    commands: dict[str, tuple[Callable[..., None], int]] = {
        "ls": (files.ls, 1),
        "tree": (files.tree, 1),
        "stat": (files.stat, 1),
        "cat": (files.cat, 1),
        "cp": (files.cp, 2),
        "safetensors": (tensors.show, 1),
        "load": (tensors.load, 1),
    }
    name, *given = arguments or [""]
    if name not in commands:
        raise UsageError(f"{name!r} is no command; expected one of {', '.join(commands)} (--help)")
    command, least = commands[name]
    if len(given) < least or (len(given) > least and name != "cp"):
        raise UsageError(f"io {name} takes {least} argument(s), {len(given)} were given (--help)")
    log.to_stderr(10 if values.debug else 20)
    with Vfs(reading_options(values.cache)) as vfs:
        command(vfs, values, *given)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
