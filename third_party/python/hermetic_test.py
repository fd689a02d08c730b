"""The interpreter, its library and all it loads come from the build, not from the host."""

import contextlib
import multiprocessing
import os
import sqlite3
import ssl
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

linux = pytest.mark.skipif(sys.platform == "darwin", reason="on macOS the system's Python is used")


def run(*arguments: str, **environment: str) -> str:
    """Standard output of this interpreter in another process."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout.strip()


def mapped_libraries() -> set[str]:
    """Paths of the shared libraries in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if ".so" in line}


@linux
def test_version_is_the_locked_one() -> None:
    assert sys.version_info[:2] == (3, 13)
    assert sys.implementation.cache_tag == "cpython-313"


@linux
def test_prefix_lies_in_the_runfiles() -> None:
    runfiles = Path(os.environ["RUNFILES_DIR"])
    assert Path(sys.prefix).is_relative_to(runfiles)
    assert Path(sys.executable).is_relative_to(runfiles)
    assert all(Path(entry).is_relative_to(runfiles) for entry in sys.path)


@linux
def test_no_library_of_the_host_is_mapped() -> None:
    assert float(jax.jit(lambda x: x @ x.T)(jnp.ones((4, 4))).sum()) == 64.0
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        assert database.execute("select 1").fetchone() == (1,)
    assert ssl.OPENSSL_VERSION.startswith("OpenSSL 3")
    libraries = mapped_libraries()
    assert any("libjax_common" in path for path in libraries)
    assert [path for path in libraries if path.startswith(("/lib", "/usr"))] == []


@linux
def test_the_prefix_is_not_handed_to_other_programs() -> None:
    assert "PYTHONHOME" not in os.environ
    assert run("-c", "import os; print('PYTHONHOME' in os.environ)") == "False"


def test_a_child_sees_the_same_modules() -> None:
    script = "import sys, jax; print(sys.prefix, jax.__file__)"
    assert run("-c", script) == f"{sys.prefix} {jax.__file__}"


def test_an_isolated_child_runs() -> None:
    assert run("-I", "-c", "import ssl, sqlite3, ctypes; print(1)") == "1"


def test_no_package_of_the_users_home_is_seen(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.13/site-packages"
    site.mkdir(parents=True)
    (site / "planted.py").write_text("raise SystemExit('seen')")
    script = "import importlib.util; print(importlib.util.find_spec('planted'))"
    assert run("-c", script, PYTHONUSERBASE=str(tmp_path)) == "None"


def test_multiprocessing_spawns() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


@linux
def test_the_interpreter_runs_through_a_link_and_a_relative_path(tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    command = ["./python", "-c", "import sys, ssl; print(sys.version_info[1])"]
    assert subprocess.check_output(command, cwd=tmp_path, text=True).strip() == "13"


def test_scipy_is_not_needed() -> None:
    assert "scipy" not in sys.modules


@linux
def test_modules_come_with_bytecode() -> None:
    modules = [m.__spec__ for m in sys.modules.values() if getattr(m, "__spec__", None)]
    cached = {spec.name: spec.cached for spec in modules if spec and spec.origin and spec.cached}
    assert {"jax", "json", "pytest"} <= cached.keys()
    assert {name for name in ("jax", "json", "pytest") if not Path(cached[name]).is_file()} == set()
