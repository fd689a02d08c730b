"""What every measured process does before it loads: files are in the page cache or are not, and memory is there."""

import json
import mmap
import os
import time
from pathlib import Path
from typing import Any

from tools.bench.llm.peers import process

_BLOCK = 8 << 20
# PAGE_REPORTING's delay, and what the reporting takes.
_REPORT_SECONDS = 3.0
# What less costs is not noticed.
_MUCH = 256 << 20


def prepare(job: dict[str, Any]) -> None:
    """Puts the files of a job into the page cache, or out of it. Raises OSError where the system keeps them.

    Then as much memory as the job's `memory` is taken and given back. A virtual machine's free memory may have gone to
    its host, and comes again at 0.2 to 2 GB/s: what is to be measured is the loader, and not that. Linux reports what
    is free to the host two seconds after something was freed, as by the process before: until then it is held.
    """
    _place(job)
    size = job.get("memory", 0)
    if size:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                taken.madvise(mmap.MADV_HUGEPAGE)
            for offset in range(0, size, mmap.PAGESIZE):
                taken[offset] = 1
            if size >= _MUCH:
                time.sleep(_REPORT_SECONDS)
        peak = Path("/proc/self/clear_refs")
        if peak.exists():
            peak.write_text("5")  # the peak of resident memory begins anew


def _place(job: dict[str, Any]) -> None:
    for name in job.get("files", []):
        path = Path(name)
        with path.open("rb", buffering=0) as file:
            if job["cached"]:
                while file.read(_BLOCK):
                    pass
                continue
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            share = cached_share(path)
            if share > 0.01:
                raise OSError(f"{path}: {share:.0%} of it stays in the page cache")


def answer(seconds: float, size: int, about: str) -> None:
    """Prints what a loader took, for the process that started it."""
    found = {
        "seconds": seconds,
        "bytes": size,
        "peak_rss_bytes": process.peak_rss(),
        "about": about,
    }
    print(json.dumps(found))


def cached_share(path: Path) -> float:
    """How much of a file is in the page cache, of some pages all over it."""
    size = path.stat().st_size
    # Far apart: the system reads ahead of those that are not there.
    pages = max(1, min(200, size >> 20))
    with path.open("rb", buffering=0) as file:
        found = 0
        for i in range(pages):
            try:
                os.preadv(file.fileno(), [bytearray(1)], size * i // pages, os.RWF_NOWAIT)
                found += 1
            except BlockingIOError:
                continue
    return found / pages
