"""Archives for docker and podman."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from third_party.rules_oci.oci.private import load
from third_party.rules_oci.oci.private.layout import Layout, OciError
from third_party.rules_oci.tests.samples import build, index, layer


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    tars = [layer(tmp_path / "a.tar", "a"), layer(tmp_path / "b.tar.gz", "b", zipped=True)]
    return build(tmp_path / "image", tars)


def written(layout: Layout, form: str, names: list[str]) -> dict[str, bytes]:
    out = io.BytesIO()
    load.write(layout, names, form, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in members.items() if file}


def test_docker_reads_its_own_format(layout: Layout) -> None:
    files = written(layout, "docker", ["team/image", "localhost:5000/image:v1"])
    [image] = json.loads(files["manifest.json"])
    assert image["RepoTags"] == ["team/image:latest", "localhost:5000/image:v1"]
    manifest = layout.json(layout.root)
    blobs = [layout.path(blob).read_bytes() for blob in manifest["layers"]]
    assert [files[path] for path in image["Layers"]] == blobs
    assert files[image["Config"]] == layout.path(manifest["config"]).read_bytes()


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_every_archive_is_a_layout_too(layout: Layout, form: str, tmp_path: Path) -> None:
    for name, content in written(layout, form, ["image:v1"]).items():
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    again = Layout(tmp_path / "again")
    assert again.root["digest"] == layout.root["digest"]
    assert again.root["annotations"] == {
        "io.containerd.image.name": "image:v1",
        "org.opencontainers.image.ref.name": "v1",
    }
    assert all(again.path(blob).is_file() for blob in again.blobs(again.root))


def test_an_index_is_for_the_format_of_oci_alone(layout: Layout, tmp_path: Path) -> None:
    both = index(
        tmp_path / "index",
        layout,
        build(tmp_path / "arm64", [], architecture="arm64"),
        annotations={},
    )
    assert len([name for name in written(both, "oci", []) if name.startswith("blobs/")]) == 7
    with pytest.raises(OciError, match='format "docker" holds one image, and this is an index'):
        written(both, "docker", [])


def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_a_loader_gets_the_archive(
    name: str, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader(tmp_path, monkeypatch, name, f'echo "$@" >"{tmp_path}/arguments"; cat >"{tmp_path}/got"')
    monkeypatch.setattr("shutil.which", lambda word: str(tmp_path / word) if word == name else None)
    load.load(layout, ["image"], "docker", None)
    assert (tmp_path / "arguments").read_text() == "load\n"
    load.load(layout, ["image"], "docker", str(tmp_path / "file"))
    assert (tmp_path / "got").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_loader_that_fails(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader(tmp_path, monkeypatch, "docker", "exit 3")
    with pytest.raises(OciError, match="docker load` failed with exit code 3"):
        load.load(layout, ["image"], "docker", None)


def test_there_is_no_loader(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(OciError, match="neither docker nor podman is on PATH: --output=FILE"):
        load.load(layout, ["image"], "docker", None)
