"""The llm example: flags in, text out. Everything of substance is in zml.llm."""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from examples.command import end_on_sigterm, open_platform, reading_options, users_path
from examples.llm.flags import Options, parse
from zml import log
from zml.errors import UsageError, ZmlError

if TYPE_CHECKING:
    from zml.llm.engine import Engine

_DEMO = Path(__file__).resolve().parent / "demo"
_LOG = log.get("llm")


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code: 0, 1 for what went wrong, 2 for a wrong command line."""
    began = time.perf_counter()
    debug = "--debug" in argv
    try:
        if sys.stdout is None:  # started with >&-
            raise UsageError("stdout is closed: there is nowhere to write the text to")
        options = parse(argv)
        if options is None:
            return 0
        end_on_sigterm()
        log.to_stderr(10 if options.debug else 20)
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is no reason to end in the middle of an answer.
            sys.stdout.reconfigure(errors="replace")
        return _run(options, began)
    except ZmlError as error:
        if debug:
            raise
        _complain(f"error(llm): {error}")
        return error.exit_code
    except BrokenPipeError:
        _abandon_stdout()
        _complain("error(llm): stdout was closed before the text was complete")
        return 1
    except OSError as error:
        if debug:
            raise
        _abandon_stdout()
        _complain(f"error(llm): {error.filename or 'output'}: {error.strerror or error}")
        return 1
    except RuntimeError as error:
        # jax's own type, by its name as jax may not be imported yet: what the device says, such as being out of memory.
        if debug or type(error).__name__ != "JaxRuntimeError":
            raise
        _complain(f"error(llm): the device failed: {str(error).splitlines()[0]:.500}")
        return 1
    except KeyboardInterrupt:
        return 130
    except MemoryError as error:
        _complain(
            f"error(llm): out of memory: {error}; try --dry_run, a smaller --seqlen or --dtype=bfloat16"
        )
        return 1


def _abandon_stdout() -> None:
    # Python flushes stdout once more at exit: where that fails it would complain, and change the exit code.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(message: str) -> None:
    if sys.stderr is not None:
        from zml.vfs.urls import redacted  # --help need not wait for it

        # A URL may hold a password.
        print(redacted(message), file=sys.stderr)


def _run(options: Options, began: float) -> int:
    # Here and not above: these import jax, which --help and wrong flags need not wait for.
    from zml.compile.cache import ExecutableCache, default_folder
    from zml.llm.engine import Engine
    from zml.platform import CpuOptions
    from zml.vfs import Vfs

    folder = default_folder()
    cache = ExecutableCache(folder) if folder else None
    devices = CpuOptions(options.cpu_device_count) if options.cpu_device_count else None
    platform = open_platform(options.platform, devices, cache)
    model = options.model or str(_DEMO)
    if "://" not in model:
        model = str(users_path(model))
    executables = None if options.executables is None else users_path(options.executables)
    vfs = Vfs(reading_options(options.cache))
    engine = Engine.open(
        model,
        platform,
        options.dtype,
        options.seqlen,
        options.backend,
        options.quantize,
        executables,
        vfs,
    )
    _LOG.info(
        "%s on %s, %s, %d tokens of context",
        engine.checkpoint.config["model_type"],
        platform.device_name,
        engine.deployment.dtype.numpy.name,
        engine.deployment.length,
    )
    if options.dry_run:
        return _dry_run(engine, options)
    profile = None if options.profile is None else users_path(options.profile)
    return _profiled(profile, lambda: _generate(engine, options, began))


def _generate(engine: "Engine", options: Options, began: float) -> int:
    from examples.llm import chat, once
    from zml.llm.sampling import resolve

    sampling = resolve(engine.checkpoint.generation_config, **options.sampling())
    prompted = options.prompt is not None or options.prompt_token_ids is not None
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if terminal and not prompted and not options.json:
        return chat.run(engine, options, sampling)
    return once.run(engine, options, sampling, began)


def _dry_run(engine: "Engine", options: Options) -> int:
    plan = engine.memory_plan()
    model = options.model or str(_DEMO)
    report = {"model": model, "memory_plan": vars(plan), "total": plan.total}
    print(json.dumps(report) if options.json else plan)
    return 0


def _profiled(folder: Path | None, run: Callable[[], int]) -> int:
    if folder is None:
        return run()
    import jax

    # jax would only say after the run that it cannot write there.
    folder.mkdir(parents=True, exist_ok=True)
    with jax.profiler.trace(folder):
        code = run()
    _LOG.info("Wrote a profile to %s", folder)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
