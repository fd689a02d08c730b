"""The images as they are built: what must hold of any that is shipped."""

import gzip
import hashlib
import json
import os
import posixpath
import tarfile
from pathlib import Path
from typing import Any

import pytest

LAYOUT = Path(os.environ["IMAGE"])
LIMIT = 170_000_000
"""Bytes of all layers, compressed."""
LIMIT_APP = 50_000
"""Bytes that are pushed again after a change of the program."""


def blob(digest: str) -> Path:
    return LAYOUT / "blobs" / digest.replace(":", "/")


def load(digest: str) -> Any:
    return json.loads(blob(digest).read_bytes())


ROOT = json.loads((LAYOUT / "index.json").read_bytes())["manifests"][0]
MANIFEST = load(ROOT["digest"])
CONFIG = load(MANIFEST["config"]["digest"])
NAMES = [entry["created_by"].removeprefix("image.") for entry in CONFIG["history"]]


@pytest.fixture(scope="module")
def layers() -> dict[str, list[tarfile.TarInfo]]:
    """The entries of each layer, read once; what a layer's bytes are is checked on the way."""
    found = {}
    for name, layer, diff_id in zip(
        NAMES, MANIFEST["layers"], CONFIG["rootfs"]["diff_ids"], strict=True
    ):
        path = blob(layer["digest"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        assert (path.stat().st_size, "sha256:" + digest) == (layer["size"], layer["digest"])
        with gzip.open(path) as file:
            assert "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == diff_id
        with tarfile.open(path) as archive:
            found[name] = archive.getmembers()
    return found


def test_no_blob_is_there_that_nothing_names() -> None:
    named = {
        ROOT["digest"],
        MANIFEST["config"]["digest"],
        *(one["digest"] for one in MANIFEST["layers"]),
    }
    assert {f"sha256:{path.name}" for path in (LAYOUT / "blobs/sha256").iterdir()} == named


def test_the_layers_lie_in_the_order_of_change() -> None:
    assert NAMES == [
        "base", "python", "jaxlib", "wheels_native", "wheels", "demo", "kernels", "zml", "sbom", "app",
    ]  # fmt: skip


def test_sizes() -> None:
    sizes = dict(zip(NAMES, (layer["size"] for layer in MANIFEST["layers"]), strict=True))
    assert sum(sizes.values()) <= LIMIT, sizes
    manifest, config = ROOT["size"], MANIFEST["config"]["size"]
    assert sizes["app"] + manifest + config <= LIMIT_APP, sizes


def test_entries_carry_nothing_of_a_machine(layers: dict[str, list[tarfile.TarInfo]]) -> None:
    for name, infos in layers.items():
        for info in infos:
            where = f"{name}: {info.name}"
            assert (info.mtime, info.uname, info.gname) == (0, "", ""), where
            assert not info.mode & 0o6000, where
            assert info.isfile() or info.isdir() or info.issym(), where
            assert (
                info.uid == info.gid == (65532 if info.name in {"cache", "home/nonroot"} else 0)
            ), where
            assert not Path(info.name).name.startswith(".wh."), where
            assert info.issym() or info.mode & 0o002 == 0 or info.mode & 0o1000, where
            assert "runfiles" not in info.name and "bazel" not in info.linkname, where


def test_no_layer_changes_what_another_one_brought(
    layers: dict[str, list[tarfile.TarInfo]],
) -> None:
    brought: dict[str, tuple[str, tarfile.TarInfo]] = {}
    for name, infos in layers.items():
        for info in infos:
            before = brought.setdefault(info.name, (name, info))
            if before[1] is not info:
                assert info.isdir() and before[1].isdir(), (
                    f"{info.name} is in {before[0]} and in {name}"
                )
                assert info.mode == before[1].mode, f"{info.name} in {before[0]} and in {name}"


def test_usr_is_merged(layers: dict[str, list[tarfile.TarInfo]]) -> None:
    links = {info.name: info.linkname for info in layers["base"] if info.issym()}
    for name in ("bin", "lib", "lib64", "sbin"):
        assert links[name] == f"usr/{name}"
    for infos in layers.values():
        assert not [
            info.name for info in infos if info.name.startswith(("bin/", "lib/", "lib64/", "sbin/"))
        ]


def test_links_lead_somewhere(layers: dict[str, list[tarfile.TarInfo]]) -> None:
    known = {info.name for infos in layers.values() for info in infos}
    # Into the running system, or to what Debian's configuration would make.
    elsewhere = {"var/run", "var/lock", "etc/mtab"}
    for infos in layers.values():
        for info in infos:
            if info.issym() and info.name not in elsewhere:
                target = posixpath.normpath(f"/{info.name}/../{info.linkname}")
                assert target.lstrip("/") in known, f"{info.name} -> {info.linkname}"


def test_every_module_has_its_bytecode(layers: dict[str, list[tarfile.TarInfo]]) -> None:
    known = {info.name for infos in layers.values() for info in infos}
    missing = []
    for name in (info.name for infos in layers.values() for info in infos if info.isfile()):
        above, _, file = name.rpartition("/")
        if file.endswith(".py") and f"{above}/__pycache__/{file[:-3]}.cpython-313.pyc" not in known:
            missing.append(name)
    # Templates that are no Python, and Debian's programs outside of the standard library's folder.
    assert [name for name in missing if name.startswith(("opt/app/", "usr/lib/"))] == []


def test_what_is_run() -> None:
    config = CONFIG["config"]
    assert config["Entrypoint"] == ["/usr/bin/python3.13", "-sP", "-m", "examples.llm"]
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.title"] == "zml-llm"
    environment = dict(item.split("=", 1) for item in config["Env"])
    assert environment["PYTHONPATH"] == "/opt/app:/opt/site-packages"
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_certificates_and_the_bill_of_materials_are_there(
    layers: dict[str, list[tarfile.TarInfo]],
) -> None:
    certificates = {info.name: info.size for info in layers["base"]}[
        "etc/ssl/certs/ca-certificates.crt"
    ]
    assert certificates > 100_000
    [bill] = [info.name for info in layers["sbom"] if info.isfile()]
    assert bill == "usr/share/sbom/image_sbom.spdx.json"
    with tarfile.open(blob(MANIFEST["layers"][NAMES.index("sbom")]["digest"])) as archive:
        file = archive.extractfile(bill)
        assert file is not None
        content = file.read()
    assert content == Path(os.environ["SBOM"]).read_bytes()
    named = {package["name"] for package in json.loads(content)["packages"]}
    records = {
        info.name.rpartition("/")[2]
        for name in ("base", "python")
        for info in layers[name]
        if info.name.startswith("var/lib/dpkg/status.d/")
    }
    assert len(records) > 15
    assert records < named
    assert {"jax", "jaxlib", "numpy", "tokenizers"} < named
    assert "pytest" not in named
