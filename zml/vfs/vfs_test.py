from collections.abc import Iterator
from pathlib import Path

import pytest

from zml.errors import NotFoundError, UnsupportedError
from zml.vfs import Entry, File, Vfs, join, urls
from zml.vfs.memory import MemoryFileSystem

_FILES = {"a/b/c.txt": b"abc", "a/d.json": b"{}", "a/b/e/f.txt": b"ffff", "top": b""}


def _vfs() -> Vfs:
    return Vfs(schemes={"memory": lambda _: MemoryFileSystem(_FILES)})


@pytest.mark.parametrize(
    ("base", "name", "expected"),
    [
        ("s3://bucket/a", "b.json", "s3://bucket/a/b.json"),
        ("s3://bucket/a/", "../b/./c/", "s3://bucket/b/c/"),
        ("s3://bucket", "../../b", "s3://bucket/b"),
        ("http://host/a/?token=1#x", "b", "http://host/a/b"),
        ("http://host/a", "/b", "http://host/b"),
        ("http://host/a", "hf://o/r", "hf://o/r"),
        ("/models/x/", "config.json", "/models/x/config.json"),
        ("/", "x", "/x"),
        ("folder", "/x", "/x"),
    ],
)
def test_names_are_joined_to_their_folder(base: str, name: str, expected: str) -> None:
    assert join(base, name) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("memory://a/b/c.txt", ["a/b/c.txt"]),
        ("memory://a/*", ["a/b/", "a/d.json"]),
        ("memory://a/*.json", ["a/d.json"]),
        ("memory://a/**/*.txt", ["a/b/c.txt", "a/b/e/f.txt"]),
        ("memory://a/**", ["a/b/c.txt", "a/b/e/f.txt", "a/d.json"]),
        ("memory://a/b/[!e].txt", ["a/b/c.txt"]),
        ("memory://a/*/*.txt", ["a/b/c.txt"]),
        ("memory://a/?.json", ["a/d.json"]),
        ("memory://a/**/e/*", ["a/b/e/f.txt"]),
        ("memory://a/**/b?e/*", []),
        ("memory://a/**/b[!x]e/*", []),
        ("memory://a/**/d[.*]json", ["a/d.json"]),
        ("memory://a/**/**/f.txt", ["a/b/e/f.txt"]),
    ],
)
def test_patterns_match_within_parts_and_over_them(pattern: str, expected: list[str]) -> None:
    found = [entry.url.removeprefix("memory://") for entry in _vfs().glob(pattern)]
    assert found == expected


def test_patterns_of_web_servers() -> None:
    listed = {
        "http://[::1]/m": ["http://[::1]/m/a%20b.txt", "http://[::1]/m/c/"],
        "http://[::1]/m/c/": ["http://[::1]/m/c/d.txt"],
    }

    def found(pattern: str) -> list[str]:
        def entries(url: str) -> Iterator[Entry]:
            return (Entry(x) for x in listed[url if url in listed else url.rstrip("/")])

        def walked(url: str) -> Iterator[Entry]:
            return (Entry(x) for each in listed.values() for x in each if not x.endswith("/"))

        return [entry.name for entry in urls.glob(pattern, entries, walked)]

    assert not urls.has_pattern("http://[::1]:80/m/a?b=*")
    assert urls.has_pattern("http://[::1]:80/m/*.txt?b")
    assert found("http://[::1]/m/a b*") == found("http://[::1]/m/a%20b*") == ["a b.txt"]
    assert found("http://[::1]/m/*/d.txt") == ["d.txt"]
    assert found("http://[::1]/m/**/*.txt") == ["a b.txt", "d.txt"]


def test_names_are_as_people_write_them() -> None:
    for url, name in (
        ("http://h/a%20b?c#d", "a b"),
        ("file:///a/b%25/", "b%"),
        ("/a/b%25", "b%25"),
        ("s3://b/a%20b?c", "a%20b?c"),
    ):
        assert Entry(url).name == name


def test_a_local_pattern(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text("x")
    with Vfs() as vfs:
        assert [e.name for e in vfs.glob(f"{tmp_path}/*.txt")] == ["a.txt", "b.txt"]


def test_unknown_schemes_name_the_known_ones() -> None:
    with pytest.raises(
        UnsupportedError, match=r"ftp://x/y: the scheme 'ftp' is not known.*memory://"
    ):
        _vfs().open("ftp://x/y")


def test_a_registered_scheme_is_used() -> None:
    vfs = _vfs()
    vfs.register("other", lambda _: MemoryFileSystem({"other://x": b"1"}))
    assert vfs.read("other://x") == b"1"


def test_existence() -> None:
    vfs = _vfs()
    assert vfs.exists("memory://a/b") and vfs.exists("memory://top")
    assert not vfs.exists("memory://nothing")
    with pytest.raises(NotFoundError):
        list(vfs.list("memory://nothing"))


def test_reading_parts() -> None:
    with _vfs().open("memory://a/b/e/f.txt") as file:
        assert isinstance(file, File)
        assert (file.size, file.read(1, 2), file.read()) == (4, b"ff", b"ffff")
