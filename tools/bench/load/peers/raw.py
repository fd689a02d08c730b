"""The limits: the same bytes by nothing but system calls, into a buffer of each reader that stays the same.

With `keep`, into memory that holds all of them in the end, which is what any loader has to do.

A job has `path` (read with O_DIRECT, or through the page cache where it is `cached`) or `url` (parallel ranged GETs, as
wrk does them), the number of `readers` and the bytes of a `block`.
"""

import ctypes
import http.client
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tools.bench.load.peers import files


def main() -> None:
    """Reads a job from stdin, prints its seconds and bytes."""
    job = json.load(sys.stdin)
    files.prepare(job)
    size, block = job["size"], job["block"]
    offsets = iter(range(0, size, block))
    lock = threading.Lock()

    def work() -> None:
        read = _file(job, size) if "path" in job else _get(job["url"], size)
        buffer = _memory(block, 0)[:block]
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            read(offset, kept[offset : offset + block] if kept else buffer)

    began = time.perf_counter()
    kept = _memory(size, block) if job.get("keep") else None
    threads = [threading.Thread(target=work) for _ in range(job["readers"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if next(offsets, None) is not None:
        raise OSError("a reader failed")
    print(json.dumps({"seconds": seconds, "bytes": size}))


def _memory(size: int, block: int) -> memoryview:
    """Huge pages, aligned to them: with small ones a disk is half as fast."""
    step = 2 << 20
    mapped = mmap.mmap(-1, size + block + step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_HUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    return memoryview(mapped)[-address % step :]


def _file(job: dict[str, Any], size: int) -> Callable[[int, memoryview], None]:
    fd = os.open(job["path"], os.O_RDONLY | (0 if job["cached"] else os.O_DIRECT))

    def read(offset: int, buffer: memoryview) -> None:
        end = min(offset + len(buffer), size)
        while offset < end:
            count = os.preadv(fd, [buffer], offset)
            if not count:
                raise OSError(f"{job['path']}: ended at {offset}")
            offset += count

    return read


def _get(url: str, size: int) -> Callable[[int, memoryview], None]:
    parts = urlsplit(url)
    assert parts.scheme == "http" and parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    target = parts.path + ("?" + parts.query if parts.query else "")

    def read(offset: int, buffer: memoryview) -> None:
        end = min(offset + len(buffer), size)
        connection.request("GET", target, headers={"Range": f"bytes={offset}-{end - 1}"})
        answer = connection.getresponse()
        if answer.status != 206:
            raise OSError(f"{url}: {answer.status}")
        # The headers' reader may hold the first bytes of the body; the rest comes straight from the socket.
        while answer.readinto(buffer):
            pass

    return read


if __name__ == "__main__":
    main()
