"""What a process says about itself."""

import os
import resource
import sys
import time
from pathlib import Path


def age(started: float) -> float:
    """Seconds since this process started. `started` is time.monotonic() where it was started, for systems that do not
    say it themselves."""
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return time.monotonic() - started
    # Field 22, counted after the name in parentheses, which may hold blanks.
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_rss() -> int:
    """The most memory that was resident, in bytes, mapped files included."""
    # Not ru_maxrss where it can be helped: on Linux it begins with that of the process which started this one.
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        found = [line for line in lines if line.startswith("VmHWM:")]
        if found:
            return int(found[0].split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
