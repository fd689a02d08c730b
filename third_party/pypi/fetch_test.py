"""Downloading one wheel with pip, from a folder in place of an index."""

import hashlib
import os
import stat
import zipfile
from pathlib import Path

import pytest

from third_party.pypi import fetch

FILE = "tiny-1.0-py3-none-any.whl"


def make_wheel(folder: Path, members: dict[str, str], file: str = FILE, requires: str = "") -> str:
    """Writes a wheel and returns its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            "tiny-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
            + (f"Requires-Dist: {requires}\n" if requires else ""),
        )
        archive.writestr(
            "tiny-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return hashlib.sha256((folder / file).read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_locked_wheel_is_downloaded(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    sha256 = make_wheel(index, {"tiny.py": "x = 1"})
    wheel = fetch.download("tiny==1.0", FILE, sha256, tmp_path, None)
    assert wheel.read_bytes() == (index / FILE).read_bytes()


def test_other_content_under_the_same_name_is_refused(index: Path, tmp_path: Path) -> None:
    make_wheel(index, {"tiny.py": "x = 2"})
    with pytest.raises(SystemExit, match=r"tiny==1.0: pip did not get tiny-1.0-py3-none-any.whl"):
        fetch.download("tiny==1.0", FILE, "0" * 64, tmp_path, None)


@pytest.mark.usefixtures("index")
def test_a_wheel_that_has_gone_names_the_lock_command(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"bazel run //third_party/pypi:lock"):
        fetch.download("tiny==1.0", FILE, "0" * 64, tmp_path, None)


@pytest.mark.parametrize(
    "tag",
    ["manylinux_2_17_aarch64.manylinux2014_aarch64", "macosx_11_0_arm64", "manylinux_2_27_x86_64"],
)
def test_a_wheel_for_another_platform_is_downloaded(index: Path, tmp_path: Path, tag: str) -> None:
    file = f"tiny-1.0-cp313-cp313-{tag}.whl"
    sha256 = make_wheel(index, {"tiny.py": ""}, file)
    assert fetch.download("tiny==1.0", file, sha256, tmp_path, None).name == file


def test_a_wheel_can_be_kept_as_it_is(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = make_wheel(index, {"tiny.py": "x = 1"})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = ["fetch", "--requirement=tiny==1.0", f"--file={FILE}", f"--sha256={sha256}", "--keep"]
    monkeypatch.setattr("sys.argv", command)
    fetch.main()
    assert [path.name for path in Path.cwd().iterdir()] == [FILE]
    (index / FILE).unlink()
    monkeypatch.setattr("sys.argv", [*command, "--lock=//platforms/tiny:lock"])
    with pytest.raises(SystemExit, match=r"bazel run //platforms/tiny:lock"):
        fetch.main()


def test_members_land_where_they_are_imported_from(tmp_path: Path) -> None:
    make_wheel(
        tmp_path,
        {
            "tiny/__init__.py": "",
            "tiny/BUILD": "",
            "tiny/tests/test_tiny.py": "",
            "tiny/tests/helper.py": "",
            "tiny-1.0.data/purelib/pure.py": "",
            "tiny-1.0.data/scripts/tool": "#!/bin/sh\n",
            "tiny-1.0.data/headers/tiny.h": "",
        },
    )
    root = tmp_path / "root"
    fetch.unpack(tmp_path / FILE, root)
    files = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert {f for f in files if "dist-info" not in f} == {
        "tiny/__init__.py",
        "tiny/tests/helper.py",
        "pure.py",
        "bin/tool",
    }
    assert stat.S_IMODE((root / "bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "pure.py").stat().st_mode) == 0o644


def test_a_member_outside_the_wheel_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path, {"../planted.py": ""})
    with pytest.raises(SystemExit, match="would lie outside the wheel"):
        fetch.unpack(tmp_path / FILE, tmp_path / "root")
