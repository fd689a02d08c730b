"""The lock of wheels: what it holds, and how it is worked out."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from third_party.pypi import lock
from third_party.pypi.fetch_test import make_wheel

FOLDER = Path("third_party/pypi")


@pytest.fixture
def locked() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "lock.json").read_text())
    return content


def test_every_wheel_is_named_by_its_hash(locked: dict[str, Any]) -> None:
    for name, package in locked["packages"].items():
        for platform, wheel in package["wheels"].items():
            assert platform in {"any", *lock.PLATFORMS}
            assert wheel.keys() == {"file", "sha256", "size"}
            assert re.fullmatch("[0-9a-f]{64}", wheel["sha256"])
            assert lock.label(wheel["file"].split("-")[0]) == name
            assert wheel["size"] > 0


def test_every_platform_has_every_package_that_is_needed(locked: dict[str, Any]) -> None:
    packages = locked["packages"]
    for package in packages.values():
        assert set(package["requires"]) <= packages.keys()
        assert package["wheels"].keys() == {"any"} or package["wheels"].keys() == set(
            lock.PLATFORMS
        )


def test_the_lock_answers_the_requirements(locked: dict[str, Any]) -> None:
    text = (FOLDER / "requirements.in").read_text()
    for name, _, version in re.findall(r"^([a-zA-Z][\w.-]*)(==(\S+))?$", text, re.MULTILINE):
        assert locked["packages"][lock.label(name)]["version"] == version or not version


def test_jax_and_its_runtime_have_one_version_and_no_scipy(locked: dict[str, Any]) -> None:
    packages = locked["packages"]
    assert packages["jax"]["version"] == packages["jaxlib"]["version"]
    assert "scipy" not in packages


def test_the_file_is_as_the_tool_writes_it(locked: dict[str, Any]) -> None:
    assert lock.dump(locked) == (FOLDER / "lock.json").read_text()


def test_omissions_need_a_reason() -> None:
    assert lock.read_omitted("# why\njax SciPy it is big\n") == {("jax", "scipy"): "it is big"}
    with pytest.raises(SystemExit, match=r"omit.txt:1: expected PACKAGE DEPENDENCY REASON"):
        lock.read_omitted("jax scipy\n")


def test_markers_are_judged_for_the_platform() -> None:
    metadata = {
        "requires_dist": [
            "everywhere>=1",
            "on-arm; platform_machine == 'aarch64'",
            "on_mac; sys_platform == 'darwin'",
            "old; python_version < '3.11'",
            "more; extra == 'all'",
        ]
    }
    arm = lock.PLATFORMS["linux_arm64"]["markers"]
    assert list(lock.requires(metadata, [], arm)) == ["everywhere", "on_arm"]
    assert list(lock.requires(metadata, ["all"], arm)) == ["everywhere", "on_arm", "more"]
    assert "on_mac" in lock.requires(metadata, [], lock.PLATFORMS["macos_arm64"]["markers"])


def test_only_what_is_reached_is_locked() -> None:
    edges = {"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": set[str]()}
    assert lock.closure(["a"], edges) == {"a", "b"}


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Requirements that a folder, the only index that pip knows of, can answer."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    make_wheel(tmp_path / "index", {"tiny.py": ""})
    path = tmp_path / "requirements.in"
    path.write_text("tiny\n")
    return path


def test_a_package_is_locked_once_for_all_platforms(requirements: Path) -> None:
    wheel = requirements.parent / "index/tiny-1.0-py3-none-any.whl"
    package = lock.lock(requirements, {})["packages"]["tiny"]
    assert package["version"] == "1.0"
    assert package["wheels"].keys() == {"any"}
    assert package["wheels"]["any"]["file"] == wheel.name
    assert package["wheels"]["any"]["size"] == wheel.stat().st_size


def test_an_omission_that_has_no_effect_is_refused(requirements: Path) -> None:
    with pytest.raises(SystemExit, match="tiny does not depend on scipy"):
        lock.lock(requirements, {("tiny", "scipy"): "big"})


def test_a_package_that_no_index_has_is_refused(requirements: Path) -> None:
    requirements.write_text("absent\n")
    with pytest.raises(SystemExit, match="pip finds no wheels"):
        lock.lock(requirements, {})


def test_a_closed_lock_holds_what_the_requirements_name(requirements: Path) -> None:
    make_wheel(requirements.parent / "index", {"tiny.py": ""}, requires="other")
    with pytest.raises(SystemExit, match="pip finds no wheels"):
        lock.lock(requirements, {})
    packages = lock.lock(requirements, {}, ["linux_amd64"], closed=True)["packages"]
    assert packages.keys() == {"tiny"} and packages["tiny"]["requires"] == set()


def test_wheels_for_a_newer_glibc_are_taken_where_it_is_asked_for() -> None:
    known = lock.PLATFORMS["linux_amd64"]["tags"]
    tags = lock.description("linux_amd64", 31)["tags"]
    assert tags[: len(known)] == known
    assert tags[len(known) :] == [
        "manylinux_2_29_x86_64",
        "manylinux_2_30_x86_64",
        "manylinux_2_31_x86_64",
        "linux_x86_64",
    ]
