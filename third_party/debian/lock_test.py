"""The lock of Debian packages, and the trees that are made of them."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path("third_party/debian")
ELF_MACHINES = {"amd64": 62, "arm64": 183}


@pytest.fixture
def lock() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "lock.json").read_text())
    return content


def test_every_package_is_named_by_its_hash(lock: dict[str, Any]) -> None:
    for package in lock["packages"]:
        assert list(package) == ["name", "version", "architecture", "path", "size", "sha256"]
        assert package["architecture"] in {"all", *ELF_MACHINES}
        assert re.fullmatch(r"pool/main/\S+\.deb", package["path"])
        assert re.fullmatch("[0-9a-f]{64}", package["sha256"])
        assert package["size"] > 0


def test_every_member_of_a_group_is_locked_once(lock: dict[str, Any]) -> None:
    for by_architecture in lock["groups"].values():
        assert by_architecture.keys() == ELF_MACHINES.keys()
        for architecture, names in by_architecture.items():
            for name in names:
                found = [
                    package
                    for package in lock["packages"]
                    if package["name"] == name and package["architecture"] in {architecture, "all"}
                ]
                assert len(found) == 1, f"{name} for {architecture}: {found}"


def test_the_groups_are_those_of_packages_txt(lock: dict[str, Any]) -> None:
    for line in (FOLDER / "packages.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        group, _, words = line.partition(":")
        for names in lock["groups"].pop(group).values():
            assert {w for w in words.split() if not w.startswith("-")} <= set(names)
            assert not {w[1:] for w in words.split() if w.startswith("-")} & set(names)
    assert lock["groups"] == {}


@pytest.mark.parametrize("architecture", ELF_MACHINES)
def test_a_package_is_unpacked_for_its_architecture(architecture: str) -> None:
    [program] = Path("..").glob(f"*debian_patchelf_{architecture}/usr/bin/patchelf")
    header = program.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert struct.unpack("<H", header[18:]) == (ELF_MACHINES[architecture],)
