"""The native library: where it is, and its handlers made known to XLA."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import jax

from zml.errors import UsageError

HANDLERS: tuple[str, ...] = (
    "zml_cpu_attention",
    "zml_cpu_emit",
    "zml_cpu_linear",
    "zml_cpu_sample",
)
"""The library's FFI handlers: the symbols, and what programs call them by."""

PATH_VARIABLE = "ZML_CPU_KERNELS"
"""Names the library's file where it is not beside this package; `none` does without it."""


@dataclass(frozen=True)
class Library:
    """The loaded library."""

    path: Path
    isa: str
    """The instruction set that its kernels use here: the best that the processor has, or what ZML_CPU_ISA says."""
    processors: int
    """How many processors it keeps busy at most: those of the affinity mask and of the control group."""
    symbols: ctypes.CDLL

    def __str__(self) -> str:
        return f"{self.isa}, {self.processors} processors"


@dataclass(frozen=True)
class Missing:
    """There is no library, and why."""

    reason: str

    def __str__(self) -> str:
        return f"none: {self.reason}"


@functools.cache
def load() -> Library | Missing:
    """The library, loaded and known to XLA at the first call; or why there is none. Later calls give the same.

    Without it everything runs through XLA alone. Raises UsageError for a path or an instruction set that the
    environment names and that is not there: what was asked for must not be passed over in silence.
    """
    given = os.environ.get(PATH_VARIABLE)
    if given == "none":
        return Missing(f"{PATH_VARIABLE}=none")
    path = Path(given) if given else _beside()
    if not path.is_file():
        if given:
            raise UsageError(
                f"{PATH_VARIABLE}={given}: there is no such file; give libzml_cpu's path, or `none`"
            )
        return Missing(f"{path.name} is not in this build ({PATH_VARIABLE} may name it)")
    try:
        symbols = ctypes.CDLL(str(path))
    except OSError as error:
        if given:
            raise UsageError(f"{PATH_VARIABLE}={given}: cannot be loaded: {error}") from error
        return Missing(f"{path} cannot be loaded: {error}")
    symbols.zml_cpu_isa.restype = symbols.zml_cpu_error.restype = ctypes.c_char_p
    ours, theirs = int(symbols.zml_cpu_ffi_version()), _ffi_version()
    if theirs is not None and ours > theirs:
        # XLA takes handlers for its own and for older versions; others break the whole client.
        return Missing(
            f"{path} was built for version {_dotted(ours)} of XLA's FFI, and this jaxlib has {_dotted(theirs)}"
        )
    isa: bytes | None = symbols.zml_cpu_isa()
    if isa is None:
        raise UsageError(symbols.zml_cpu_error().decode())
    _declare(symbols)
    for name in HANDLERS:
        handler = getattr(symbols, name)
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return Library(path, isa.decode(), int(symbols.zml_cpu_processors()), symbols)


def _declare(symbols: ctypes.CDLL) -> None:
    """What the functions take that Python calls itself."""
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    symbols.zml_cpu_quantize.argtypes = [
        ctypes.c_int32,
        ctypes.c_int32,
        pointer,
        size,
        size,
        pointer,
        pointer,
    ]


def available() -> bool:
    """Whether there is a library."""
    return isinstance(load(), Library)


def _ffi_version() -> int | None:
    """The version of XLA's interface in jaxlib, as the library counts; None where its headers are not there."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    try:
        text = header.read_text("utf-8")
    except OSError:
        return None
    parts = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    major, minor = (int(part[1]) if part else 0 for part in parts)
    return 1000 * major + minor


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000}"


def _beside() -> Path:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return Path(__file__).parent / "native" / f"libzml_cpu.{suffix}"
