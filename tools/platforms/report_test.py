"""What is printed of the sandboxes of a build, on machines that have the hardware and on others."""

from pathlib import Path

import pytest

from platforms.sandbox.manifest import NAME, Entry, Manifest, Package
from tools.platforms.report import main, report
from zml.pjrt.host import Host


def sandbox(tmp_path: Path, target: str, size: int = 2_000_000) -> Path:
    """A sandbox with its manifest in the runfiles."""
    root = tmp_path / "runfiles/platforms" / target / "sandbox"
    name = f"lib/libpjrt_{target}.so"
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(bytes(2_000_000))
    listed = Manifest(
        target,
        "linux_amd64",
        "full",
        (Package("maker", "1.2", "MIT"),),
        (Entry(name, size, "0" * 64, "maker"),),
    )
    (root / NAME).write_text(listed.dump())
    return root


def lines(tmp_path: Path, *nodes: str) -> list[str]:
    for node in nodes:
        (tmp_path / node).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / node).touch()
    return list(report(Host(tmp_path, {}, tmp_path / "runfiles", ())))


def test_a_build_for_the_cpu(tmp_path: Path) -> None:
    said = lines(tmp_path)
    assert said[0] == "tpu: not in this build (--//platforms:tpu=true adds it)"
    assert said[-2:] == ["cpu: usable", "Platform.auto() would try first: cpu"]


def test_sandboxes_without_their_devices(tmp_path: Path) -> None:
    roots = {target: sandbox(tmp_path, target) for target in ("cuda", "tpu", "cpu_plugin")}
    said = lines(tmp_path)
    at = said.index("cuda: present, no device (no NVIDIA GPU: there is no /dev/nvidia*)")
    assert said[at + 1 : at + 4] == [
        f"    runfiles: {roots['cuda']}",
        "    0.00 GB in 1 files for linux_amd64, variant full",
        "    maker 1.2: 2.0 MB",
    ]
    assert said[0].startswith("tpu: present, no device")
    assert "cpu_plugin: usable, where it is asked for" in said
    assert said[-1] == "Platform.auto() would try first: cpu"


def test_a_device_is_picked(tmp_path: Path) -> None:
    sandbox(tmp_path, "cuda")
    said = lines(tmp_path, "dev/nvidia0")
    assert "cuda: usable" in said and said[-1] == "Platform.auto() would try first: cuda"


def test_a_sandbox_that_is_not_whole_is_said(tmp_path: Path) -> None:
    root = sandbox(tmp_path, "cuda", size=3)
    said = lines(tmp_path, "dev/nvidia0")
    assert f"cuda: incomplete: {root}/lib/libpjrt_cuda.so has 2000000 bytes, expected 3" in said
    assert said[-1] == "Platform.auto() would try first: cpu"


def test_a_tree_without_manifest_is_said(tmp_path: Path) -> None:
    (sandbox(tmp_path, "cuda") / NAME).unlink()
    assert "    no manifest: versions and size are not known" in lines(tmp_path)


def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["platforms", "--nonsense"]) == 2
    assert "platforms: '--nonsense': no arguments are expected" in capsys.readouterr().err
    monkeypatch.setenv("ZML_SANDBOX_PATH", "/nowhere")
    assert main(["platforms"]) == 2
    assert "platforms: ZML_SANDBOX_PATH: /nowhere is not a folder" in capsys.readouterr().err


def test_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("ZML_SANDBOX_PATH", raising=False)
    assert main(["platforms"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.splitlines()[-1].startswith("Platform.auto() would try")
