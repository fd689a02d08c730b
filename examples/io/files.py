"""Listing, reading and copying."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from examples.command import users_path, users_url
from zml import log
from zml.errors import UsageError, ZmlError
from zml.units import binary_size
from zml.vfs import Entry, Vfs
from zml.vfs.copying import copy
from zml.vfs.urls import unquoted

_LOG = log.get("io")
_BLOCK = 8 << 20


def ls(vfs: Vfs, _: flags.FlagValues, url: str) -> None:
    """Sizes, times and names of a folder's entries."""
    found = list(vfs.glob(users_url(url)))
    if len(found) == 1 and found[0].is_folder:
        found = list(vfs.list(found[0].url))
    for entry in found:
        print(f"{_size(entry):>10}  {_time(entry):16}  {entry.name}{'/' * entry.is_folder}")


def tree(vfs: Vfs, _: flags.FlagValues, url: str) -> None:
    """A folder's files as a tree, and their number and size."""
    root = users_url(url)
    count = size = 0
    print(root)

    def show(folder: str, indent: str) -> None:
        nonlocal count, size
        entries = list(vfs.list(folder))
        for number, entry in enumerate(entries):
            last = number == len(entries) - 1
            branch = "└── " if last else "├── "
            if entry.is_folder:
                print(f"{indent}{branch}{entry.name}/")
                show(entry.url, indent + ("    " if last else "│   "))
            else:
                count, size = count + 1, size + (entry.size or 0)
                print(f"{indent}{branch}{entry.name}  {_size(entry)}")

    show(root, "")
    print(f"{count} files, {binary_size(size)}")


def stat(vfs: Vfs, _: flags.FlagValues, url: str) -> None:
    """What is known of a file without reading it."""
    entry = vfs.stat(users_url(url))
    print(f"url       {entry.url}")
    if entry.is_folder:
        print("folder    yes")
        return
    exact = "unknown" if entry.size is None else f"{entry.size} bytes ({binary_size(entry.size)})"
    print(f"size      {exact}")
    print(f"modified  {_time(entry) or 'unknown'}")
    print(f"etag      {entry.etag or 'none'}")
    checksum = entry.checksum
    print(f"checksum  {f'{checksum.algorithm} {checksum.digest.hex()}' if checksum else 'none'}")


def cat(vfs: Vfs, _: flags.FlagValues, url: str) -> None:
    """A file's bytes, in order, a block in memory at a time."""
    out = sys.stdout.buffer
    with vfs.open(users_url(url)) as file:
        block = memoryview(bytearray(min(_BLOCK, file.size)))
        for offset in range(0, file.size, _BLOCK):
            part = block[: min(_BLOCK, file.size - offset)]
            file.read_into(offset, part)
            out.write(part)
    out.flush()


def cp(vfs: Vfs, values: flags.FlagValues, *urls: str) -> None:
    """Copies files, and folders with what is in them, to a local path."""
    *sources, last = urls
    if "://" in last and not last.startswith("file://"):
        raise UsageError(f"io cp writes to local paths only: {last} is none")
    target = users_path(last.removeprefix("file://"))
    into = last.endswith("/") or target.is_dir()
    jobs = [
        job for source in sources for job in _jobs(vfs, users_url(source), target, into, values)
    ]
    taken: dict[Path, Entry] = {}
    for entry, path in jobs:
        if path in taken:
            how = "copy them one by one" if into else f"give a folder, {last}/"
            raise UsageError(
                f"{path}: several files cannot be copied to one ({taken[path].url}, {entry.url}): {how}"
            )
        taken[path] = entry
    began, total = time.perf_counter(), 0
    for entry, path in jobs:
        path.parent.mkdir(parents=True, exist_ok=True)
        with vfs.open(entry.url) as file:
            copy(file, path)
            total += file.size
    seconds = time.perf_counter() - began
    _LOG.info(
        "Copied %d files [%s, %.3fs, %s/s]",
        len(jobs),
        binary_size(total),
        seconds,
        binary_size(total / seconds),
    )


def _jobs(
    vfs: Vfs, source: str, target: Path, into: bool, values: flags.FlagValues
) -> Iterator[tuple[Entry, Path]]:
    """Each file of a source with the path it goes to. All paths are checked before a byte is copied."""
    found = list(vfs.glob(source))
    if not found:
        raise ZmlError(f"{source}: nothing fits the pattern")
    for entry in found:
        base = target / entry.name if into else target
        if entry.is_folder:
            for file in vfs.walk(entry.url):
                relative = unquoted(file.url).removeprefix(unquoted(entry.url))
                # A server's names are untrusted: none may lead out of the folder.
                if (
                    relative.startswith("/")
                    or ".." in relative.split("/")
                    or os.sep + os.sep in relative
                    or "\0" in relative
                ):
                    raise ZmlError(f"{file.url}: the name leads out of the folder {entry.url}")
                yield _checked(file, base / relative, values)
        else:
            yield _checked(entry, base, values)


def _checked(entry: Entry, path: Path, values: flags.FlagValues) -> tuple[Entry, Path]:
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; a file cannot be copied over it")
    if path.exists() and not values.overwrite:
        raise UsageError(f"{path}: is there already; --overwrite replaces it")
    return entry, path


def _size(entry: Entry) -> str:
    return "" if entry.size is None else binary_size(entry.size)


def _time(entry: Entry) -> str:
    if entry.modified is None:
        return ""
    with contextlib.suppress(OverflowError, ValueError):
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified))
    return ""
