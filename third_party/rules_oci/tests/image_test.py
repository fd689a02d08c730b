"""Layouts: what the attributes of the rules become."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from third_party.rules_oci.oci.private import image
from third_party.rules_oci.oci.private.layout import INDEX, MANIFEST, Layout, OciError
from third_party.rules_oci.tests.samples import EMPTY, build, index, layer


def config_of(layout: Layout) -> Any:
    return layout.json(layout.json(layout.root)["config"])


def test_a_layout_holds_what_its_digests_name(tmp_path: Path) -> None:
    tars = [layer(tmp_path / "a.tar", "a"), layer(tmp_path / "b.tar.gz", "b", zipped=True)]
    layout = build(tmp_path / "image", tars)
    assert layout.root["mediaType"] == MANIFEST
    assert layout.root["platform"] == {"os": "linux", "architecture": "amd64"}
    blobs = list((layout.folder / "blobs/sha256").iterdir())
    assert len(blobs) == 4
    for blob in blobs:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    manifest = layout.json(layout.root)
    assert [one["mediaType"].rpartition(".")[2] for one in manifest["layers"]] == [
        "tar",
        "tar+gzip",
    ]
    assert [one["size"] for one in manifest["layers"]] == [tar.stat().st_size for tar in tars]
    plain = [tars[0].read_bytes(), gzip.decompress(tars[1].read_bytes())]
    expected = ["sha256:" + hashlib.sha256(data).hexdigest() for data in plain]
    assert config_of(layout)["rootfs"] == {"type": "layers", "diff_ids": expected}
    assert [one["created_by"] for one in config_of(layout)["history"]] == ["a", "b.tar"]


def test_a_gzip_file_of_several_parts(tmp_path: Path) -> None:
    path = tmp_path / "parts.tar.gz"
    path.write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    assert image.describe(path, "")["diff_id"] == "sha256:" + hashlib.sha256(b"onetwo").hexdigest()


def test_zstd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x28\xb5\x2f\xfd...")
    with pytest.raises(
        OciError, match="compressed with zstd: expected a tar archive, plain or gzip"
    ):
        image.describe(tmp_path / "a.tar", "")


def test_the_attributes_are_in_the_config(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a=b=c\n\nd=\n")
    (tmp_path / "created").write_text("2026-01-31T12:00:00Z\n")
    layout = build(
        tmp_path / "image",
        [],
        entrypoint=["/bin/program", "-x"],
        cmd=["--help"],
        env={"PATH": "/usr/bin", "MORE": "${PATH}:/bin"},
        user="65532:65532",
        workdir="/data",
        exposed_ports=["8080/tcp"],
        volumes=["/cache"],
        labels_file=str(tmp_path / "labels"),
        annotations={"key": "value"},
        created_file=str(tmp_path / "created"),
        variant="v3",
    )
    config = config_of(layout)
    assert config["config"] == {
        "Entrypoint": ["/bin/program", "-x"],
        "Cmd": ["--help"],
        "Env": ["PATH=/usr/bin", "MORE=/usr/bin:/bin"],
        "User": "65532:65532",
        "WorkingDir": "/data",
        "ExposedPorts": {"8080/tcp": {}},
        "Volumes": {"/cache": {}},
        "Labels": {"a": "b=c", "d": ""},
    }
    assert (config["created"], config["variant"]) == ("2026-01-31T12:00:00Z", "v3")
    assert layout.json(layout.root)["annotations"] == {"key": "value"}


def test_an_image_goes_on_from_its_base(tmp_path: Path) -> None:
    base = build(
        tmp_path / "base",
        [layer(tmp_path / "a.tar", "a")],
        entrypoint=["/old"],
        cmd=["--old"],
        env={"PATH": "/usr/bin", "KEPT": "1"},
        user="1",
    )
    layout = build(
        tmp_path / "image",
        [layer(tmp_path / "b.tar", "b")],
        base=str(base.folder),
        os="",
        architecture="",
        entrypoint=["/new"],
        env={"PATH": "/opt/bin:$PATH"},
    )
    config = config_of(layout)
    assert config["architecture"] == "amd64"
    assert config["config"] == {
        "Entrypoint": ["/new"],
        "Env": ["PATH=/opt/bin:/usr/bin", "KEPT=1"],
        "User": "1",
    }
    assert len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 2
    first, _ = layout.json(layout.root)["layers"]
    assert first == base.json(base.root)["layers"][0]
    assert layout.path(first).is_file()


def test_an_index_has_an_image_a_platform(tmp_path: Path) -> None:
    shared = layer(tmp_path / "a.tar", "a")
    amd64 = build(tmp_path / "amd64", [shared])
    arm64 = build(tmp_path / "arm64", [shared], architecture="arm64")
    layout = index(tmp_path / "index", amd64, arm64, amd64, annotations={"key": "value"})
    assert layout.root["mediaType"] == INDEX
    assert layout.images() == [amd64.root, arm64.root]
    assert layout.json(layout.root)["annotations"] == {"key": "value"}
    for one in layout.images():
        assert all(layout.path(blob).is_file() for blob in layout.blobs(one))


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for place in ("here", "a longer place"):
        (tmp_path / place).mkdir()
        tar = layer(tmp_path / place / "a.tar", "a")
        layout = build(tmp_path / place / "image", [tar], labels={"b": "1", "a": "2"})
        digests.add(layout.root["digest"])
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"os": ""}, "an image needs a base, or both os and architecture"),
        ({"base": "nowhere"}, "nowhere is no OCI layout: expected oci-layout and index.json"),
        ({"labels_file": "labels"}, "labels: expected KEY=VALUE in each line, found 'word'"),
    ],
)
def test_a_wrong_attribute(
    attributes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").write_text("word\n")
    with pytest.raises(OciError, match=message):
        build(tmp_path / "image", [], **attributes)


def test_a_base_for_another_processor(tmp_path: Path) -> None:
    base = build(tmp_path / "base", [])
    with pytest.raises(OciError, match="the base is for architecture amd64, the image for arm64"):
        build(tmp_path / "image", [], base=str(base.folder), architecture="arm64")


def test_two_images_for_one_platform(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one", []), build(tmp_path / "other", [], user="1")
    with pytest.raises(OciError, match="two images of the index are for"):
        index(tmp_path / "index", one, other, annotations={})


def test_a_layer_that_changed_after_it_was_described(tmp_path: Path) -> None:
    tar = layer(tmp_path / "a.tar", "a")
    descriptor = tmp_path / "a.json"
    descriptor.write_text(json.dumps({**image.describe(tar, "a"), "size": 1}))
    listed = [{"tar": str(tar), "descriptor": str(descriptor)}]
    with pytest.raises(OciError, match="bytes, expected the 1 of sha256:"):
        image.build({**EMPTY, "layers": listed, "output": str(tmp_path / "image")})
