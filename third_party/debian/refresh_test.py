"""lock.sh against a mirror of local files."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.bootstrap.fake_mirror import Package
from tools.bootstrap.fake_pgp import Key

SCRIPT = Path("third_party/debian/lock.sh").absolute()
KEY = Key("archive of the test")
pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this host has no apt")


def publish(mirror: Path, packages: list[Package], key: Key = KEY) -> None:
    """Makes `mirror` one that has `packages` for both architectures in trixie."""
    dist = mirror / "dists/trixie"
    release = "Origin: Test\nSuite: trixie\nCodename: trixie\nDate: Wed, 01 Jan 2020 00:00:00 UTC\n"
    release += "Architectures: amd64 arm64\nComponents: main\nSHA256:\n"
    for architecture in ("amd64", "arm64"):
        index = ""
        for package in packages:
            if package.architecture in {architecture, "all"}:
                path = f"pool/main/{package.name}_{package.version}_{package.architecture}.deb"
                index += f"{package.control()}Filename: {path}\nSize: 123\n"
                index += f"SHA256: {hashlib.sha256(path.encode()).hexdigest()}\n\n"
        listing = dist / f"main/binary-{architecture}/Packages"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(index)
        sha256 = hashlib.sha256(index.encode()).hexdigest()
        release += f" {sha256} {len(index)} main/binary-{architecture}/Packages\n"
    (dist / "Release").write_text(release)
    (dist / "Release.gpg").write_bytes(key.sign(release.encode()))


PACKAGES = [
    Package("tool", depends="library, unneeded", version="1:2.0~rc1-1", architecture="amd64"),
    Package("tool", depends="library, unneeded", version="1:2.0~rc1-1", architecture="arm64"),
    Package("library"),
    Package("unneeded"),
    Package("unrelated"),
]


@pytest.fixture
def tree() -> Iterator[Path]:
    """A source tree whose packages.txt asks for `tool`, beside a mirror that has it."""
    # Not pytest's own folder, whose path may be long: apt makes file names of 255 bytes of it.
    with tempfile.TemporaryDirectory(prefix="zml", dir="/tmp") as name:
        root = Path(name)
        (root / "third_party/debian").mkdir(parents=True)
        (root / "third_party/debian/packages.txt").write_text("# why\n\ngroup: tool -unneeded\n")
        (root / "key.gpg").write_bytes(KEY.public())
        publish(root / "mirror", PACKAGES)
        yield root


def refresh(tree: Path) -> subprocess.CompletedProcess[str]:
    """Runs lock.sh as `bazel run` does."""
    environment = {
        "PATH": os.environ["PATH"],
        "BUILD_WORKSPACE_DIRECTORY": str(tree),
        "ZML_DEBIAN_KEYRING": str(tree / "key.gpg"),
        "ZML_DEBIAN_MIRROR": f"file:{tree}/mirror",
    }
    return subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=False)


def test_the_lock_holds_the_group_with_its_dependencies(tree: Path) -> None:
    result = refresh(tree)
    assert result.returncode == 0, result.stderr
    lock: dict[str, Any] = json.loads((tree / "third_party/debian/lock.json").read_text())
    names = ["library", "tool"]
    assert lock["suite"] == "trixie"
    assert lock["groups"] == {"group": {"amd64": names, "arm64": names}}
    locked = {(p["name"], p["architecture"]): p for p in lock["packages"]}
    assert locked.keys() == {("library", "all"), ("tool", "amd64"), ("tool", "arm64")}
    path = "pool/main/tool_1:2.0~rc1-1_arm64.deb"
    assert locked["tool", "arm64"] == {
        "name": "tool",
        "version": "1:2.0~rc1-1",
        "architecture": "arm64",
        "path": path,
        "size": 123,
        "sha256": hashlib.sha256(path.encode()).hexdigest(),
    }


def test_a_second_run_changes_nothing(tree: Path) -> None:
    lock = tree / "third_party/debian/lock.json"
    assert refresh(tree).returncode == 0
    first = lock.read_bytes()
    assert refresh(tree).returncode == 0
    assert lock.read_bytes() == first


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ("group: absent\n", "apt finds no way to install absent for amd64"),
        ("group: tool -unrelated\n", "leaves unrelated out of group, which does not depend on it"),
    ],
)
def test_a_list_that_the_suite_cannot_answer(tree: Path, packages: str, message: str) -> None:
    (tree / "third_party/debian/packages.txt").write_text(packages)
    result = refresh(tree)
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tree / "third_party/debian/lock.json").exists()


def test_an_index_that_another_key_signed_is_refused(tree: Path) -> None:
    publish(tree / "mirror", PACKAGES, Key("somebody else"))
    result = refresh(tree)
    assert result.returncode == 1
    assert "could not be read or its signature is bad" in result.stderr


def test_a_missing_keyring_is_named(tree: Path) -> None:
    (tree / "key.gpg").unlink()
    result = refresh(tree)
    assert result.returncode == 1
    assert f"no keyring at {tree}/key.gpg" in result.stderr
