import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from zml.compile.cache import ExecutableCache, default_folder


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


needs_user = pytest.mark.skipif(os.getuid() == 0, reason="root may write to any folder")


def test_what_is_put_can_be_got_by_another_cache(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    ExecutableCache(folder).put("k", b"blob")
    assert ExecutableCache(folder).get("k") == b"blob"
    assert ExecutableCache(folder).get("other") is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "k").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 40])
def test_a_damaged_entry_is_a_miss_and_can_be_replaced(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ExecutableCache(tmp_path / "c")
    cache.put("k", b"blob")
    (tmp_path / "c" / "k").write_bytes(damage)
    assert cache.get("k") is None
    assert "is damaged; compiling anew" in caplog.text
    cache.put("k", b"blob")
    assert cache.get("k") == b"blob"


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    cache = ExecutableCache(tmp_path / "c")
    cache.put("k", bytes(1000))
    raw = bytearray((tmp_path / "c" / "k").read_bytes())
    raw[500] ^= 1
    (tmp_path / "c" / "k").write_bytes(raw)
    assert cache.get("k") is None


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = ExecutableCache(tmp_path / "c", max_bytes=3 * 132)
    for age, key in enumerate(["a", "b", "c"]):
        cache.put(key, bytes(100))
        os.utime(tmp_path / "c" / key, (age, age))
    (tmp_path / "c" / "folder").mkdir()
    assert cache.get("a") == bytes(100)  # used now, so b is the oldest
    cache.put("d", bytes(100))
    assert {key: cache.get(key) is not None for key in "abcd"} == {
        "a": True, "b": False, "c": True, "d": True,
    }  # fmt: skip


def test_an_abandoned_temporary_file_goes_and_a_fresh_one_stays(tmp_path: Path) -> None:
    cache = ExecutableCache(tmp_path / "c", max_bytes=200)
    cache.put("a", bytes(100))
    for name in (".old", ".fresh"):
        (tmp_path / "c" / name).write_bytes(bytes(150))
    os.utime(tmp_path / "c" / ".old", (0, 0))
    cache.put("b", bytes(100))
    assert _names(tmp_path / "c") == [".fresh", "b"]


def test_an_entry_larger_than_the_cache_does_no_harm(tmp_path: Path) -> None:
    cache = ExecutableCache(tmp_path / "c", max_bytes=10)
    cache.put("k", bytes(100))
    assert cache.get("k") is None
    assert _names(tmp_path / "c") == []


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_not_used(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "c"
    ExecutableCache(folder).put("k", b"blob")
    folder.chmod(mode)
    cache = ExecutableCache(folder)
    assert cache.get("k") is None
    cache.put("l", b"blob")
    assert _names(folder) == ["k"]
    assert caplog.text.count("can be written to by others") == 1


def test_a_folder_that_cannot_be_made_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = ExecutableCache(tmp_path / "file" / "c")
    cache.put("k", b"blob")
    cache.put("k", b"blob")
    assert cache.get("k") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot be made (Not a directory)" in caplog.text


def test_a_folder_that_vanishes_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ExecutableCache(tmp_path / "c")
    cache.put("k", b"blob")
    (tmp_path / "c" / "k").unlink()
    (tmp_path / "c").rmdir()
    cache.put("k", b"blob")
    cache.put("k", b"blob")
    assert caplog.text.count("compiled programs are not kept") == 1


@needs_user
def test_a_read_only_folder_is_still_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "c"
    ExecutableCache(folder).put("k", b"blob")
    folder.chmod(0o500)
    cache = ExecutableCache(folder)
    assert cache.get("k") == b"blob"
    cache.put("l", b"blob")
    assert "cannot be written to (Permission denied)" in caplog.text
    folder.chmod(0o700)


def test_an_entry_whose_time_cannot_be_set_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(1, "Read-only file system")

    ExecutableCache(tmp_path / "c").put("k", b"blob")
    monkeypatch.setattr(os, "utime", refuse)
    assert ExecutableCache(tmp_path / "c").get("k") == b"blob"


def _hammer(folder: Path, seed: int) -> int:
    """Writes and reads the same keys as its siblings in a cache too small for them; counts the wrong answers."""
    cache = ExecutableCache(folder, max_bytes=40_000)
    wrong = 0
    for step in range(200):
        key = str((step * 7 + seed) % 5)
        cache.put(key, key.encode() * 10_000)
        got = cache.get(str(step % 5))
        wrong += got is not None and got != str(step % 5).encode() * 10_000
    return wrong + (not cache._is_usable())


def test_processes_at_once_see_whole_entries_or_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        results = pool.starmap(_hammer, [(tmp_path / "c", seed) for seed in range(2)])
    assert results == [0, 0]
    assert not [name for name in _names(tmp_path / "c") if name.startswith(".")]


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_folder() == Path("/xdg/zml/executables")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/h")
    assert default_folder() == Path("/h/.cache/zml/executables")


def test_a_user_without_a_home_has_no_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: str) -> str:
        return path

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", no_home)
    assert default_folder() is None
