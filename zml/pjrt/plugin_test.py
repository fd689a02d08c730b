"""What is set before a plugin is loaded, and what is said of one that cannot be."""

from pathlib import Path

import pytest

from zml.errors import UnsupportedError
from zml.pjrt import plugin
from zml.pjrt.host import Host
from zml.pjrt.sandbox import Sandbox


def sandbox(folder: Path, target: str, content: bytes | None) -> Sandbox:
    library = folder / f"lib/libpjrt_{target}.so"
    library.parent.mkdir(parents=True)
    if content is not None:
        library.write_bytes(content)
    return Sandbox(target, folder, library, "runfiles")


def opened(box: Sandbox, host: Host) -> str:
    with pytest.raises(UnsupportedError) as caught:
        plugin.open_client(box, {}, host)
    return str(caught.value)


def test_a_sandbox_without_its_plugin_is_incomplete(tmp_path: Path) -> None:
    box = sandbox(tmp_path, "cuda", None)
    said = opened(box, Host(tmp_path, {}))
    assert f"the sandbox of cuda at {tmp_path} (runfiles) is incomplete: {box.library}" in said
    assert "bazel build //platforms/cuda:sandbox" in said


@pytest.mark.parametrize("content", [b"", b"junk" * 1000, b"\x7fELF" + bytes(1000)])
def test_a_damaged_plugin_is_named_with_what_the_loader_said(
    tmp_path: Path, content: bytes
) -> None:
    box = sandbox(tmp_path, "cuda", content)
    said = opened(box, Host(tmp_path, {}))
    assert f"platform 'cuda': the plugin {box.library} (runfiles) could not be loaded: " in said
    assert "the file is damaged or for another machine" in said


def test_a_library_that_is_no_plugin_is_refused(tmp_path: Path) -> None:
    import _ctypes

    box = sandbox(tmp_path, "neuron", Path(_ctypes.__file__).read_bytes())
    assert f"the plugin {box.library} (runfiles) could not be loaded" in opened(
        box, Host(tmp_path, {})
    )


def environment(tmp_path: Path, target: str, **already: str) -> dict[str, str]:
    """The variables there are after an attempt to load."""
    variables = dict(already)
    opened(sandbox(tmp_path / "sandbox", target, b"junk"), Host(tmp_path, variables))
    return variables


def test_cuda_finds_its_tools_in_the_sandbox(tmp_path: Path) -> None:
    assert environment(tmp_path, "cuda") == {"CUDA_ROOT": str(tmp_path / "sandbox")}


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    assert environment(tmp_path, "cuda", CUDA_ROOT="mine") == {"CUDA_ROOT": "mine"}


def test_a_tpu_asks_the_metadata_server_on_google_cloud_only(tmp_path: Path) -> None:
    elsewhere = environment(tmp_path / "a", "tpu")
    assert elsewhere["TPU_SKIP_MDS_QUERY"] == elsewhere["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    firmware = tmp_path / "b/sys/class/dmi/id/sys_vendor"
    firmware.parent.mkdir(parents=True)
    firmware.write_text("Google\n")
    assert "TPU_SKIP_MDS_QUERY" not in environment(tmp_path / "b", "tpu")


def test_rocm_s_libraries_are_the_host_s(tmp_path: Path) -> None:
    assert environment(tmp_path / "a", "rocm") == {}
    (tmp_path / "b/opt/rocm").mkdir(parents=True)
    assert environment(tmp_path / "b", "rocm") == {"ROCM_PATH": str(tmp_path / "b/opt/rocm")}
