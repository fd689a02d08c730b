"""The conformance suite of file systems: cases that every scheme passes.

A scheme's test publishes FILES in a Place, once, and is `check(place, case)` for each of CASES:

    @pytest.fixture(scope="module")
    def place(...) -> Iterator[Place]: ...

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_conformance(place: Place, case: Case) -> None:
        check(place, case)
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from zml.errors import CancelledError, NotFoundError, ReadError, UnsupportedError, ZmlError
from zml.vfs import Cancellation, Entry, File, Vfs, join

_SECONDS = 60.0
_BIG = random.Random(7).randbytes((3 << 20) + 17)

FILES: Mapping[str, bytes] = {
    "big.bin": _BIG,
    "config.json": b'{"a": 1}',
    "deep/a/b/c/d/e/f/g/h/deepest.txt": b"deepest",
    "deep/a/one.txt": b"1",
    "empty.txt": b"",
    "folder/a.txt": b"a",
    "folder/b.bin": b"bb",
    "folder/b.txt": b"bbb",
    "folder/inner/c.txt": b"cccc",
    "folder/inner/d.bin": b"ddddd",
    "folder/z.txt": b"z",
    "folder2/x.txt": b"x",
    "names/100%.txt": b"percent",
    "names/a b.txt": b"space",
    "names/a%20b.txt": b"quoted",
    "names/a+b.txt": b"plus",
    "names/a=b&c;d,e@f:g!h$i'j(k).txt": b"signs",
    "names/~under_score-dash..txt": b"plain",
    "names/ünïcödé-模型-🙂.txt": b"unicode",
    "one.byte": b"1",
}
"""What a Place has by path, to begin with. A case that changes a file has one of its own."""


@dataclass(frozen=True)
class Place:
    """A folder that a scheme reads."""

    vfs: Vfs
    folder: str
    """Its URL, without a "/" at its end."""
    publish: Callable[[Mapping[str, bytes]], None]
    """Puts files there, by path in the folder, or replaces some: with another etag or time, if the source has one."""
    quote: Callable[[str], str] = str
    """The path of a file as its URL has it."""
    lists: bool = True
    """Whether folders can be listed."""

    def url(self, path: str) -> str:
        """A file's, or a folder's."""
        return f"{self.folder}/{self.quote(path)}"


@dataclass(frozen=True)
class Case:
    """One thing that a scheme does."""

    name: str
    run: Callable[[Place], None]

    def __str__(self) -> str:
        return self.name


def check(place: Place, case: Case) -> None:
    """Runs a case. Raises AssertionError."""
    case.run(place)


def _opens(place: Place) -> None:
    for path, content in FILES.items():
        with place.vfs.open(place.url(path)) as file:
            assert isinstance(file, File)
            assert file.size == len(content), f"{path} has {file.size} bytes"
            assert file.url == place.url(path), f"{path} is {file.url}"
            assert file.read() == content, f"{path} has other bytes"
        assert place.vfs.read(place.url(path)) == content
    for number in (file.streams, file.part, file.alignment):
        assert number > 0


def _stats_files(place: Place) -> None:
    for path, content in FILES.items():
        entry = place.vfs.stat(place.url(path))
        assert not entry.is_folder, f"{path} is a folder: {entry}"
        assert entry.size == len(content), f"{path}: {entry}"
        assert entry.name == path.rpartition("/")[2], f"{path} has the name {entry.name}"
        assert place.vfs.read(entry.url) == content, f"{entry.url} is another file"
        with place.vfs.open(entry.url) as file:
            if None not in (file.etag, entry.etag):
                assert file.etag == entry.etag
        assert place.vfs.exists(place.url(path))


def _stats_folders(place: Place) -> None:
    for path in ("folder", "folder/inner", "deep/a/b", "names"):
        for end in ("", "/"):
            entry = place.vfs.stat(place.url(path) + end)
            assert entry.is_folder and entry.size is None, f"{path}: {entry}"
            assert entry.name == path.rpartition("/")[2]
            assert place.vfs.exists(place.url(path) + end)
    assert place.vfs.stat(place.folder).is_folder


def _opens_no_folder(place: Place) -> None:
    for path in ("folder", "deep/a"):
        with _raises(ReadError, place.url(path)):
            place.vfs.open(place.url(path)).read()


def _lacks_what_is_missing(place: Place) -> None:
    for path in ("missing.txt", "folder/missing.txt", "missing/a.txt", "fold", "big.bin2"):
        url = place.url(path)
        for method in (place.vfs.open, place.vfs.stat, place.vfs.read):
            with _raises(NotFoundError, url):
                method(url)
        assert not place.vfs.exists(url)
    url = place.url("missing")
    assert not place.vfs.exists(url + "/")
    if place.lists:
        with _raises(NotFoundError, url):
            list(place.vfs.list(url))
        with _raises(NotFoundError, url):
            list(place.vfs.walk(url))


def _reads_ranges(place: Place) -> None:
    rng = random.Random(11)
    ranges = [(0, 0), (0, 1), (len(_BIG) - 1, 1), (len(_BIG), 0), (0, len(_BIG)), (4095, 4098)]
    for _ in range(40):
        start = rng.randrange(len(_BIG))
        ranges.append((start, min(rng.choice((1, 7, 513, 65537, 1 << 20)), len(_BIG) - start)))
    with place.vfs.open(place.url("big.bin")) as file:
        for start, size in ranges:
            _read(file, start, size, shift=rng.randrange(9))
        assert file.read(5, 3) == _BIG[5:8]
        assert file.read(len(_BIG) - 3) == _BIG[-3:]
        assert file.read(len(_BIG)) == b""


def _reads_empty_files(place: Place) -> None:
    with place.vfs.open(place.url("empty.txt")) as file:
        assert file.size == 0
        assert file.read() == b""
        file.read_into(0, memoryview(bytearray()))
        with _raises(ReadError, "empty.txt"):
            file.read(0, 1)


def _refuses_to_read_beyond_the_end(place: Place) -> None:
    with place.vfs.open(place.url("big.bin")) as file:
        for start, size in ((0, len(_BIG) + 1), (len(_BIG), 1), (len(_BIG) + 5, 3)):
            with _raises(ReadError, "big.bin"):
                file.read_into(start, memoryview(bytearray(size)))
        _read(file, 17, 1000)  # it can go on
    with _raises(ReadError, "big.bin"):
        place.vfs.read(place.url("big.bin"), limit=len(_BIG) - 1)


def _lists(place: Place) -> None:
    if not place.lists:
        with _raises(UnsupportedError, "folder"):
            list(place.vfs.list(place.url("folder")))
        return
    for end in ("", "/"):
        entries = list(place.vfs.list(place.url("folder") + end))
        assert [_shown(e) for e in entries] == ["a.txt", "b.bin", "b.txt", "inner/", "z.txt"]
        for entry in entries:
            if not entry.is_folder:
                assert entry.size in (None, len(FILES[f"folder/{entry.name}"]))
                assert place.vfs.read(entry.url) == FILES[f"folder/{entry.name}"]
        inner = [_shown(e) for e in place.vfs.list(entries[3].url)]
        assert inner == ["c.txt", "d.bin"]
    top = [_shown(e) for e in place.vfs.list(place.folder)]
    assert top == sorted(top)
    assert {"big.bin", "deep/", "folder/", "folder2/"} <= set(top)


def _lists_names(place: Place) -> None:
    if not place.lists:
        return
    names = {p.removeprefix("names/"): c for p, c in FILES.items() if p.startswith("names/")}
    entries = list(place.vfs.list(place.url("names")))
    assert {entry.name for entry in entries} == set(names)
    for entry in entries:
        assert place.vfs.read(entry.url) == names[entry.name], f"{entry.url} is another file"
    with place.vfs.open(join(place.url("names"), place.quote("a+b.txt"))) as file:
        assert file.read() == b"plus"


def _walks(place: Place) -> None:
    if not place.lists:
        return
    for path in ("folder", "deep", "folder/inner", "names"):
        found = {}
        for entry in place.vfs.walk(place.url(path)):
            assert not entry.is_folder, f"{entry.url} is a folder"
            found[entry.url] = place.vfs.read(entry.url)
        expected = [c for p, c in FILES.items() if p.startswith(f"{path}/")]
        assert sorted(found.values()) == sorted(expected), f"{path}: {sorted(found)}"


def _globs(place: Place) -> None:
    if not place.lists:
        return
    for pattern, expected in {
        "folder/*.txt": ["a.txt", "b.txt", "z.txt"],
        "folder/*": ["a.txt", "b.bin", "b.txt", "inner/", "z.txt"],
        "folder/?.bin": ["b.bin"],
        "folder/[ab].txt": ["a.txt", "b.txt"],
        "folder/**/*.bin": ["b.bin", "d.bin"],
        "folder/*/*.txt": ["c.txt"],
        "folder/**": ["a.txt", "b.bin", "b.txt", "c.txt", "d.bin", "z.txt"],
        "*/x.txt": ["x.txt"],
        "deep/**/deepest.txt": ["deepest.txt"],
        "config.json": ["config.json"],
        "names/a b*": ["a b.txt"],
        "names/*模型*": ["ünïcödé-模型-🙂.txt"],
        "folder/nothing*": [],
    }.items():
        if pattern.startswith("folder/?") and place.folder.startswith("http"):
            continue  # "?" begins a query
        found = [_shown(entry) for entry in place.vfs.glob(f"{place.folder}/{pattern}")]
        assert sorted(found) == sorted(expected), pattern


def _reads_from_many_threads(place: Place) -> None:
    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(6):
            start = rng.randrange(len(_BIG))
            _read(file, start, min(rng.randrange(1, 300_000), len(_BIG) - start))
        path, content = rng.choice(list(FILES.items()))
        assert place.vfs.read(place.url(path)) == content

    with place.vfs.open(place.url("big.bin")) as file, ThreadPoolExecutor(16) as threads:
        for result in [threads.submit(read, seed) for seed in range(32)]:
            result.result(_SECONDS)


def _never_mixes_versions(place: Place) -> None:
    for size in (len(_BIG), len(_BIG) // 2, 2 * len(_BIG)):
        old, new = _BIG, random.Random(size).randbytes(size)
        place.publish({"changing/file.bin": old})
        with place.vfs.open(place.url("changing/file.bin")) as file:
            assert file.read(0, 1000) == old[:1000]
            place.publish({"changing/file.bin": new})
            for start in (1000, len(_BIG) - 1000, 0):
                # Pinned to what was opened, or one clear error; never the other file's bytes.
                try:
                    found = file.read(start, 1000)
                except ReadError as error:
                    assert "changing/file.bin" in str(error), error
                else:
                    assert found == old[start : start + 1000], "bytes of another version"
        assert place.vfs.read(place.url("changing/file.bin")) == new


def _ends_reading_when_closed(place: Place) -> None:
    file = place.vfs.open(place.url("big.bin"))
    assert file.read(0, 10) == _BIG[:10]
    file.close()
    file.close()
    with _raises(ReadError, "big.bin"):
        file.read(10, 10)
    place.vfs.close()
    assert place.vfs.read(place.url("config.json")) == FILES["config.json"]


def _is_cancelled_before(place: Place) -> None:
    cancellation = Cancellation()
    with place.vfs.open(place.url("big.bin")) as file:
        buffer = memoryview(bytearray(100))
        file.read_into(0, buffer, cancellation)
        cancellation.cancel()
        with _raises(CancelledError):
            file.read_into(0, buffer, cancellation)
        file.read_into(50, buffer)  # others are not
        assert buffer == _BIG[50:150]


def _is_cancelled_while_reading(place: Place) -> None:
    cancellation = Cancellation()
    started = threading.Semaphore(0)

    def read() -> None:
        buffer = memoryview(bytearray(len(_BIG)))
        with _raises(CancelledError):
            while True:
                file.read_into(0, buffer, cancellation)
                started.release()

    with place.vfs.open(place.url("big.bin")) as file, ThreadPoolExecutor(4) as threads:
        reads = [threads.submit(read) for _ in range(4)]
        assert started.acquire(timeout=_SECONDS)
        cancellation.cancel()
        for result in reads:
            result.result(_SECONDS)
        _read(file, 3, 1000)


CASES = tuple(
    Case(run.__name__.strip("_").replace("_", "-"), run)
    for run in (
        _opens,
        _stats_files,
        _stats_folders,
        _opens_no_folder,
        _lacks_what_is_missing,
        _reads_ranges,
        _reads_empty_files,
        _refuses_to_read_beyond_the_end,
        _lists,
        _lists_names,
        _walks,
        _globs,
        _reads_from_many_threads,
        _never_mixes_versions,
        _ends_reading_when_closed,
        _is_cancelled_before,
        _is_cancelled_while_reading,
    )
)


def _read(file: File, start: int, size: int, shift: int = 0) -> None:
    """Reads a range into the middle of memory, around which nothing may be written."""
    memory = bytearray(b"\xa5" * (shift + size + 8))
    file.read_into(start, memoryview(memory)[shift : shift + size])
    assert memory[shift : shift + size] == _BIG[start : start + size], f"{size} bytes at {start}"
    assert memory[:shift] + memory[shift + size :] == b"\xa5" * (shift + 8), "written beside it"


def _shown(entry: Entry) -> str:
    return entry.name + ("/" if entry.is_folder else "")


@contextlib.contextmanager
def _raises(kind: type[ZmlError], *said: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        for text in said:
            assert text in str(error), f"{error} does not say {text}"
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
