"""Lowering, compiling, and the cache of compiled programs."""

from zml.compile.cache import ExecutableCache
from zml.compile.executable import Executable, compile_function

__all__ = ["Executable", "ExecutableCache", "compile_function"]
