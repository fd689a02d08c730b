"""Which runtimes are found where."""

import json
from pathlib import Path

import pytest

from zml.errors import UsageError
from zml.pjrt import sandbox
from zml.pjrt.host import Host


def plugin(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not a library")
    return path


def host(tmp_path: Path, *paths: Path) -> Host:
    return Host(
        root=tmp_path,
        environment={"ZML_SANDBOX_PATH": ":".join(map(str, paths))} if paths else {},
        package=tmp_path / "runfiles",
        site=(tmp_path / "site",),
    )


def test_nothing_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    assert sandbox.find(host(tmp_path)) == {}


def test_a_folder_in_the_variable_holds_sandboxes_or_is_one(tmp_path: Path) -> None:
    cuda = plugin(tmp_path / "many/cuda/lib/libpjrt_cuda.so")
    tpu = plugin(tmp_path / "one/lib/libpjrt_tpu.so")
    (tmp_path / "many/rocm").mkdir()
    found = sandbox.find(host(tmp_path, tmp_path / "many", tmp_path / "one"))
    assert {target: box.library for target, box in found.items() if box.complete} == {
        "cuda": cuda,
        "tpu": tpu,
    }
    assert found["cuda"].root == tmp_path / "many/cuda"
    assert found["cuda"].source == "ZML_SANDBOX_PATH"
    assert not found["rocm"].complete


def test_the_runfiles_come_after_the_variable_and_wheels_last(tmp_path: Path) -> None:
    for target in ("cuda", "rocm"):
        plugin(tmp_path / f"runfiles/platforms/{target}/sandbox/lib/libpjrt_{target}.so")
    named = plugin(tmp_path / "named/cuda/lib/libpjrt_cuda.so")
    plugin(tmp_path / "site/jax_plugins/xla_cuda13/xla_cuda_plugin.so")
    tpu = plugin(tmp_path / "site/libtpu/libtpu.so")
    found = sandbox.find(host(tmp_path, tmp_path / "named"))
    assert {box.target: box.source for box in found.values()} == {
        "cuda": "ZML_SANDBOX_PATH",
        "rocm": "runfiles",
        "tpu": "installed wheel",
    }
    assert (found["cuda"].library, found["tpu"].library) == (named, tpu)


def test_a_complete_sandbox_is_taken_before_an_incomplete_one(tmp_path: Path) -> None:
    (tmp_path / "named/cuda").mkdir(parents=True)
    whole = plugin(tmp_path / "runfiles/platforms/cuda/sandbox/lib/libpjrt_cuda.so")
    assert sandbox.find(host(tmp_path, tmp_path / "named"))["cuda"].library == whole


@pytest.mark.parametrize(
    "name, problem", [("missing", "is not a folder"), ("empty", "has no sandbox in it")]
)
def test_a_folder_without_a_sandbox_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UsageError, match=f"ZML_SANDBOX_PATH: .*/{name} {problem}; expected a folder"
    ):
        sandbox.find(host(tmp_path, tmp_path / name))


@pytest.mark.parametrize(
    "files, problem",
    [
        ([], ""),
        ([{"path": "bin/ptxas", "size": 13}], ""),
        ([{"path": "bin/ptxas", "size": 14}], "bin/ptxas has 13 bytes, expected 14"),
        ([{"path": "bin/nvlink", "size": 1}], "bin/nvlink is missing"),
        ([{"size": 1}], "manifest.json cannot be read: KeyError"),
        ({}, ""),
        (None, "manifest.json cannot be read: TypeError"),
    ],
)
def test_a_sandbox_has_what_its_manifest_lists(tmp_path: Path, files: object, problem: str) -> None:
    plugin(tmp_path / "cuda/lib/libpjrt_cuda.so")
    plugin(tmp_path / "cuda/bin/ptxas")
    (tmp_path / "cuda/manifest.json").write_text(json.dumps({"files": files}))
    box = sandbox.find(host(tmp_path, tmp_path))["cuda"]
    assert problem in box.problem and box.complete == (not problem)
