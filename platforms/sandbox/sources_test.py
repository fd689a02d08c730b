"""Taking files from wheels, Debian packages and installed packages."""

import zipfile
from pathlib import Path

import pytest

from platforms.sandbox import sources
from platforms.sandbox._testing import deb, wheel
from platforms.sandbox.sources import About, Deb, Installed, SourceError, Wheel


def test_a_wheel_s_files_are_written(tmp_path: Path) -> None:
    package = Wheel(wheel(tmp_path, {"a/b.so": b"x" * 3_000_000}))
    package.extract({"a/b.so": tmp_path / "out/lib/b.so"})
    assert (tmp_path / "out/lib/b.so").read_bytes() == b"x" * 3_000_000
    assert package.about() == About("1.0", "MIT")


def test_a_debian_package_s_links_are_followed(tmp_path: Path) -> None:
    package = Deb(
        deb(tmp_path, {"usr/lib/libz.so.1.3": b"z"}, {"usr/lib/libz.so.1": "libz.so.1.3"})
    )
    package.extract({"usr/lib/libz.so.1": tmp_path / "libz.so.1"})
    assert (tmp_path / "libz.so.1").read_bytes() == b"z"
    assert package.about() == About("1.0-1", "Zlib")


@pytest.mark.parametrize(
    "make",
    [lambda at: Wheel(wheel(at, {"a/x.so.1": b"x"})), lambda at: Deb(deb(at, {"a/x.so.1": b"x"}))],
)
def test_a_file_that_is_missing_is_named_with_what_is_like_it(tmp_path: Path, make: object) -> None:
    package = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(SourceError, match=r"has no a/x.so.2; it has a/x.so.1; mend the file list"):
        package.extract({"a/x.so.2": tmp_path / "x"})


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1, 0.0])
def test_a_package_that_is_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    for package in (Wheel(wheel(tmp_path, {"a": b"x"})), Deb(deb(tmp_path, {"a": b"x"}))):
        content = package.path.read_bytes()
        package.path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(SourceError, match=f"{package.path.name}: is"):
            package.extract({"a": tmp_path / "out"})


def test_a_member_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("a", b"content")
    path.write_bytes(path.read_bytes().replace(b"content", b"changed"))
    with pytest.raises(SourceError, match="is damaged or cut short"):
        Wheel(path).extract({"a": tmp_path / "out"})


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, {})
    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SourceError, match="a is a symbolic link: name its target"):
        Wheel(path).extract({"a": tmp_path / "out"})


def test_another_file_than_the_locked_one_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, {})
    with pytest.raises(SourceError, match=rf"{path.name}: sha256 is \w+ .* the lock says 0000"):
        sources.check_hash(path, "0" * 64)
    with pytest.raises(SourceError, match="cannot be read"):
        sources.check_hash(tmp_path / "absent", "0" * 64)


def test_installed_packages_are_read_through_links(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel(tmp_path, {"a/x.so": b"x"})) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "site/a/y.so").symlink_to(tmp_path / "site/a/x.so")
    package = Installed(tmp_path / "site", "tiny")
    package.extract({"a/y.so": tmp_path / "out"})
    assert (tmp_path / "out").read_bytes() == b"x" and package.about() == About("1.0", "MIT")
    with pytest.raises(SourceError, match=r"a/z.so of tiny is not there"):
        package.extract({"a/z.so": tmp_path / "out"})
    with pytest.raises(SourceError, match="other is not installed there"):
        Installed(tmp_path / "site", "other").about()
