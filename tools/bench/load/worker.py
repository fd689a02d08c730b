"""zml's part: opens a checkpoint and loads all of it, as the io example does, in a process of its own.

Modules are imported before the clock starts, as they are by the limits; how long those of the scheme take is reported.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tools.bench.llm.peers import process
from tools.bench.load.peers import files
from zml.io import LoadReport, TensorStore, load
from zml.platform import CpuOptions, Platform
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.vfs import Options, Vfs, urls

_MODULES = {
    "http": ("zml.vfs.http",),
    "s3": ("zml.vfs.s3", "botocore.session", "botocore.auth"),
}


def main() -> None:
    """Reads a job from stdin, prints what it took."""
    job = json.load(sys.stdin)
    os.environ.update(job.get("environment", {}))
    platform = Platform.init("cpu", CpuOptions(job["devices"]))
    sharding = platform.sharding("all", LogicalMesh(all=HIGH_BANDWIDTH))
    began = time.perf_counter()
    for module in _MODULES.get(urls.scheme(job["url"]), ()):
        import_module(module)
    import_seconds = time.perf_counter() - began
    files.prepare(job)
    before = _rss()
    vfs = Vfs(Options())
    began = time.perf_counter()
    with vfs, TensorStore.open(job["url"], vfs) as store:
        opened = time.perf_counter()
        names = [job["only"]] if "only" in job else list(store.entries)
        view = store.view()
        declared = {}
        for name in names:
            dims: dict[str, int] = {f"d{i}": n for i, n in enumerate(store.entries[name].shape)}
            longest = max(dims, key=lambda tag: dims[tag])
            cut: dict[str, Any] = {longest: "all"} if job["devices"] > 1 else {}
            declared[name] = view.tensor(name, dims, **cut)
        report = LoadReport()
        buffers: Any = load(declared, store, platform, shardings=[sharding], report=report)
        for buffer in buffers.values():
            buffer.wait()
        ended = time.perf_counter()
    size = sum(store.entries[name].end - store.entries[name].begin for name in names)
    peak = process.peak_rss()
    print(
        json.dumps(
            {
                "seconds": ended - began,
                "import_seconds": import_seconds,
                "open_seconds": opened - began,
                "bytes": size,
                "bytes_read": report.bytes_read,
                "bytes_needed": report.bytes_needed,
                "peak_rss_bytes": peak,
                "rss_over_weights_bytes": peak - before - size,
                "about": f"rss before loading {before >> 20} MiB",
            }
        )
    )


def _rss() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
