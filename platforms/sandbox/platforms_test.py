"""The file lists, locks and kept manifests of the platforms agree with each other, and the documentation with them.

A kept manifest, platforms/X/manifests/*.json, is what the assembler wrote for the locked packages. Its sizes and hashes
are checked against a sandbox that is built by X's own test, which downloads the packages and so is run by name.
"""

import json
import tomllib
from pathlib import Path

import pytest

from platforms.sandbox import manifest
from platforms.sandbox.manifest import Manifest
from platforms.sandbox.recipe import FULL, read_lock, read_recipe
from third_party.pypi import lock

ROOT = Path("platforms")
TARGETS = ("cpu_plugin", "cuda", "neuron", "rocm", "tpu")
KEPT = sorted(ROOT.glob("*/manifests/*.json"))
DEBIAN = Path("third_party/debian/lock.json")


def read(path: Path) -> Manifest:
    return manifest.read(path)


def test_manifests_are_kept_of_what_can_be_downloaded() -> None:
    kept = {
        (listed.target, listed.platform) for listed in map(read, KEPT) if listed.variant == FULL
    }
    locked = set()
    for target in TARGETS:
        for package in json.loads((ROOT / target / "lock.json").read_text())["packages"].values():
            locked |= {(target, platform) for platform in package["wheels"]}
    assert kept == locked


@pytest.mark.parametrize("path", KEPT, ids=str)
def test_a_kept_manifest_is_of_the_locked_packages_and_the_list(path: Path) -> None:
    listed = read(path)
    assert path.name == f"{listed.platform}.{listed.variant}.json"
    folder = ROOT / listed.target
    recipe = read_recipe(folder / "sandbox.toml", listed.platform)
    files = recipe.select(listed.variant)
    assert {(file.path, file.package) for file in listed.files} == {
        (file.path, file.package) for file in files
    }
    locks = read_lock(DEBIAN, listed.platform) | read_lock(folder / "lock.json", listed.platform)
    assert {(p.name, p.version) for p in listed.packages} == {
        (file.package, locks[file.package].version) for file in files
    }
    assert 0 < listed.size <= recipe.max_size
    assert listed.dump() == path.read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_a_list_has_a_plugin_and_a_reason_for_each_file(target: str) -> None:
    limits = tomllib.loads((ROOT / target / "sandbox.toml").read_text())["max_size"]
    for platform in limits:
        recipe = read_recipe(ROOT / target / "sandbox.toml", platform)
        assert recipe.target == target
        for variant in (FULL, *recipe.variants):
            assert f"lib/libpjrt_{target}.so" in {file.path for file in recipe.select(variant)}
        assert all(len(file.why) > 10 for file in recipe.files)
        assert all(recipe.external.values()) and all(recipe.variants.values())


@pytest.mark.parametrize("target", TARGETS)
def test_a_lock_is_as_the_tool_writes_it_and_answers_the_requirements(target: str) -> None:
    text = (ROOT / target / "lock.json").read_text()
    packages = json.loads(text)["packages"]
    assert lock.dump(json.loads(text)) == text
    for line in (ROOT / target / "requirements.in").read_text().splitlines():
        name, _, version = line.partition("==")
        if version:
            assert packages[lock.label(name)]["version"] == version


def test_cuda_s_plugin_is_of_the_locked_jax() -> None:
    jax = json.loads(Path("third_party/pypi/lock.json").read_text())["packages"]["jax"]["version"]
    cuda = json.loads((ROOT / "cuda/lock.json").read_text())["packages"]
    assert cuda["jax_cuda13_pjrt"]["version"] == jax


def test_the_documentation_has_the_sizes() -> None:
    page = Path("docs/sandboxes.md").read_text("utf-8")
    table = [
        line for line in page.splitlines() if line.startswith(tuple(f"| {t} |" for t in TARGETS))
    ]
    expected = [
        f"| {x.target} | {x.variant} | {x.platform} | {x.size / 1e6:.0f} MB | {len(x.files)} |"
        for x in map(read, KEPT)
    ]
    assert sorted(table) == sorted(expected)


def test_the_documentation_names_what_the_host_brings() -> None:
    page = Path("docs/sandboxes.md").read_text("utf-8")
    for name in ("libcuda.so.1", "libnvidia-ml.so.1", "libc.so.6", "libstdc++.so.6", "libnrt.so.1"):
        assert f"`{name}`" in page
    for name in read_recipe(ROOT / "rocm/sandbox.toml", "linux_amd64").external:
        assert f"`{name}`" in page
