"""What the examples share: flags as `--name=value`, paths, the platform, errors as one line, exit codes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from zml.errors import UsageError, ZmlError

if TYPE_CHECKING:
    from zml import CpuOptions, ExecutableCache, Platform
    from zml.vfs import Options


def parse(values: flags.FlagValues, argv: Sequence[str], usage: str) -> bool:
    """Reads a command line (argv[0] is the program) into `values`. False once --help has been printed.

    Raises UsageError for unknown or malformed flags and for arguments that are no flags.
    """
    rest = parse_arguments(values, argv, usage)
    if rest:
        raise UsageError(
            f"unexpected argument {rest[0]!r}: flags are given as --name=value (--help lists them)"
        )
    return rest is not None


def parse_arguments(values: flags.FlagValues, argv: Sequence[str], usage: str) -> list[str] | None:
    """The same for a program that takes arguments: those that are no flags. None once --help has been printed."""
    flags.DEFINE_boolean("help", False, "Print this and exit.", short_name="h", flag_values=values)
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        raise UsageError(f"{error} (--help lists the flags)") from error
    if values.help:
        lines = [usage]
        # In the order they were defined in; -h and --help are one flag.
        for flag in {values[name].name: values[name] for name in values}.values():
            default = "" if flag.default in (None, False, []) else f" (default {flag.default})"
            lines.append(f"  --{flag.name}\n      {flag.help}{default}")
        print("\n".join(lines))
        return None
    return list(rest)


def end_on_sigterm() -> None:
    """Lets SIGTERM end a container at once, also in the middle of native code such as XLA's compiler.

    Process 1 has no default action for it, so that `docker stop` would wait and then kill. Any other process has one.
    """
    if os.getpid() != 1:
        return
    inlet, outlet = os.pipe()
    os.set_blocking(outlet, False)
    # Python calls handlers between two bytecodes of the main thread; the number of the signal is written when it comes.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(outlet, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGTERM not in os.read(inlet, 64):
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def users_path(path: str) -> Path:
    """A path as the user meant it: `bazel run` starts programs in another folder than it was called in."""
    home = os.path.expanduser(path)  # noqa: PTH111  # Path's raises for an unknown user
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", ""), home)


def users_url(url: str) -> str:
    """A path as `users_path` has it, or a URL."""
    return url if "://" in url else str(users_path(url))


def reading_options(cache: str | None) -> "Options":
    """How remote files are read where --cache is given, or is not."""
    from zml.vfs import Options

    return Options(cache=None if cache is None else users_path(cache))


def open_platform(
    name: str, options: "CpuOptions | None" = None, cache: "ExecutableCache | None" = None
) -> "Platform":
    """The platform that --platform names; `auto` is the best that is there."""
    import zml  # here and not above: opening one imports jax, which --help need not wait for

    if name == "auto":
        return zml.Platform.auto(options, cache=cache)
    return zml.Platform.init(name, options, cache=cache)


def run(name: str, body: Callable[..., Any], *args: Any) -> int:
    """Calls body(*args). What is the user's to mend is one line on stderr, and the exit code of its error."""
    try:
        body(*args)
        sys.stdout.flush()
    except ZmlError as error:
        from zml.vfs.urls import redacted  # --help need not wait for it

        # A URL may hold a password.
        print(f"error({name}): {redacted(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
