from pathlib import Path

import pytest

from zml.errors import NotFoundError, UnsupportedError
from zml.vfs import File, Vfs, join
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
    ],
)
def test_patterns_match_within_parts_and_over_them(pattern: str, expected: list[str]) -> None:
    found = [entry.url.removeprefix("memory://") for entry in _vfs().glob(pattern)]
    assert found == expected


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
