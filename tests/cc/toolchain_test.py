"""The C++ toolchain makes an XLA FFI library for each platform; jax runs this machine's."""

import ctypes
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cc import object_file

GLIBC = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"}
LOADER = {"linux_amd64": "ld-linux-x86-64.so.2", "linux_arm64": "ld-linux-aarch64.so.1"}


def library(name: str) -> Path:
    return Path(os.environ[name])


@pytest.fixture(scope="session", autouse=True)
def axpy_target() -> None:
    """Registers this machine's library with XLA."""
    handler = ctypes.CDLL(str(library("HANDLER").resolve())).AxpyHandler
    capsule = jax.ffi.pycapsule(handler)
    jax.ffi.register_ffi_target("axpy", capsule, platform="cpu")


def axpy(scale: float, x: jax.Array, y: jax.Array) -> jax.Array:
    """The call, whose result is shaped like `x`."""
    return jax.ffi.ffi_call("axpy", x)(x, y, scale=np.float32(scale))


def test_handler_runs_in_a_jitted_program() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 129), dtype=np.float32)
    result = jax.jit(axpy, static_argnums=0)(2.5, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(result, np.float32(2.5) * x + y, rtol=1e-6)


def test_exception_thrown_in_the_library_becomes_an_error() -> None:
    ones = jnp.ones(4)
    with pytest.raises(jax.errors.JaxRuntimeError, match="scale is inf"):
        axpy(float("inf"), ones, ones).block_until_ready()


@pytest.mark.parametrize(
    ("platform", "format", "machine"),
    [
        ("linux_amd64", "ELF", "x86_64"),
        ("linux_arm64", "ELF", "aarch64"),
        ("macos_arm64", "Mach-O", "aarch64"),
    ],
)
def test_library_is_for_its_platform(platform: str, format: str, machine: str) -> None:
    found = object_file.read(library(f"HANDLER_{platform}"))
    assert (found.format, found.machine) == (format, machine)


@pytest.mark.parametrize("platform", ["linux_amd64", "linux_arm64"])
def test_linux_library_needs_glibc_2_28_and_nothing_else(platform: str) -> None:
    found = object_file.read(library(f"HANDLER_{platform}"))
    assert set(found.needed) <= GLIBC | {LOADER[platform]}
    assert {name for name, _ in found.versions} <= set(found.needed)
    assert () < found.glibc() <= (2, 28)


def test_macos_library_needs_the_system_only_and_is_signed() -> None:
    found = object_file.read(library("HANDLER_macos_arm64"))
    assert found.needed == ("/usr/lib/libSystem.B.dylib",)
    assert found.minimum_os == (13, 0)
    assert found.signed


def test_object_file_refuses_what_is_not_a_library() -> None:
    with pytest.raises(ValueError, match="expected 64-bit ELF or Mach-O, found"):
        object_file.read(Path(__file__))
