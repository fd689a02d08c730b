"""The rules: what Bazel makes of the targets beside this file."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from third_party.rules_oci.oci.private.layout import INDEX, Layout
from third_party.rules_oci.tests.fake_registry import FakeRegistry

FOLDER = Path("third_party/rules_oci/tests")


def test_an_image_on_a_base() -> None:
    layout = Layout(FOLDER / "image")
    manifest = layout.json(layout.root)
    config = layout.json(manifest["config"])
    assert config["config"] == {
        "Entrypoint": ["/program"],
        "Cmd": ["--flag"],
        "Env": ["PATH=/opt/bin:/usr/bin"],
        "Labels": {"key": "value"},
        "User": "65532",
    }
    assert manifest["annotations"] == {"note": "a, b"}
    assert len(manifest["layers"]) == 2
    assert [layout.path(blob).read_bytes() for blob in layout.blobs(layout.root)][1:] == [b"hello"]


def test_an_index_is_built_for_each_platform() -> None:
    layout = Layout(FOLDER / "index")
    assert layout.root["mediaType"] == INDEX
    platforms = [image["platform"]["architecture"] for image in layout.images()]
    assert platforms == ["amd64", "arm64"]
    assert len(Layout(FOLDER / "index_of_one").images()) == 1


@pytest.mark.parametrize("name", ["image", "index"])
def test_the_digest_is_a_target(name: str) -> None:
    assert (FOLDER / f"{name}.json.sha256").read_text() == Layout(FOLDER / name).root["digest"]


def run(variable: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(os.environ[variable]).absolute()
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_load_writes_the_archive(tmp_path: Path) -> None:
    result = run("LOAD", f"--output={tmp_path / 'image.tar'}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "image.tar").read_bytes() == (FOLDER / "load/tarball.tar").read_bytes()
    with tarfile.open(tmp_path / "image.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        assert b'"RepoTags":["team/image:v1"]' in manifest.read()


def test_push_prints_the_digest() -> None:
    registry = FakeRegistry()
    try:
        result = run("PUSH", f"--repository={registry.host}/image")
    finally:
        registry.close()
    assert result.returncode == 0, result.stderr
    digest = (FOLDER / "index.json.sha256").read_text()
    assert result.stdout == f"{registry.host}/image@{digest}\n"
    assert registry.manifests["image"].keys() >= {"latest", digest}


def test_push_without_a_repository() -> None:
    result = run("PUSH")
    assert result.returncode == 1
    assert result.stderr == "oci: the target names no repository: give --repository=HOST/NAME\n"
