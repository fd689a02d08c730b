"""From traced functions to programs that run, and the cache of compiled programs."""

from zml.compile.cache import ExecutableCache
from zml.compile.exe import Exe, Runner
from zml.compile.options import CompileOptions, Pass
from zml.pjrt.executable import MemoryPlan

__all__ = ["CompileOptions", "Exe", "ExecutableCache", "MemoryPlan", "Pass", "Runner"]
