"""What fake machines look like to the probes."""

import os
from pathlib import Path

import pytest

from zml.pjrt.host import Host
from zml.pjrt.probe import on_google_cloud, probe


def machine(root: Path, *nodes: str, files: dict[str, str] | None = None) -> Host:
    texts: dict[str, str] = dict.fromkeys(nodes, "")
    for name, text in (texts | (files or {})).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Host(root)


def pci(vendor: str, device: str) -> dict[str, str]:
    at = f"sys/bus/pci/devices/0000:00:0{device[-1]}.0"
    return {f"{at}/vendor": vendor + "\n", f"{at}/device": device + "\n"}


GOOGLE = {"sys/class/dmi/id/product_name": "Google Compute Engine\n"}


@pytest.mark.parametrize(
    "target, problem",
    [
        ("cuda", "no NVIDIA GPU"),
        ("rocm", "no AMD GPU: there is no /dev/kfd"),
        ("tpu", "no TPU: there is no"),
        ("neuron", "no Trainium"),
    ],
)
def test_an_empty_machine_has_nothing_but_a_cpu(tmp_path: Path, target: str, problem: str) -> None:
    found = probe(target, Host(tmp_path))
    assert found.devices == () and problem in found.problem
    assert probe("cpu", Host(tmp_path)).problem == ""


def test_nvidia(tmp_path: Path) -> None:
    found = probe(
        "cuda", machine(tmp_path, "dev/nvidiactl", "dev/nvidia0", "dev/nvidia1", "dev/nvidia-uvm")
    )
    assert (found.devices, found.problem) == (("/dev/nvidia0", "/dev/nvidia1"), "")


def test_an_nvidia_driver_without_a_gpu_is_said(tmp_path: Path) -> None:
    found = probe("cuda", machine(tmp_path, "dev/nvidiactl"))
    assert found.devices == () and "no GPU was given to this machine or container" in found.problem


def test_amd_needs_both_nodes(tmp_path: Path) -> None:
    assert "no /dev/dri/renderD*" in probe("rocm", machine(tmp_path, "dev/kfd")).problem
    found = probe("rocm", machine(tmp_path, "dev/kfd", "dev/dri/renderD128", "dev/dri/card0"))
    assert (found.devices, found.problem) == (("/dev/kfd", "/dev/dri/renderD128"), "")


def test_neuron(tmp_path: Path) -> None:
    assert probe("neuron", machine(tmp_path, "dev/neuron0")).devices == ("/dev/neuron0",)


@pytest.mark.parametrize("node", ["dev/accel0", "dev/vfio/0"])
def test_a_tpu_is_known_by_its_chip_or_its_machine(tmp_path: Path, node: str) -> None:
    chip = machine(tmp_path / "chip", node, files=pci("0x1ae0", "0x0063"))
    assert probe("tpu", chip).problem == ""
    assert probe("tpu", machine(tmp_path / "cloud", node, files=GOOGLE)).problem == ""


def test_nodes_of_other_devices_are_no_tpu(tmp_path: Path) -> None:
    # Another vendor's device under vfio; a network card of Google's; an NPU, whose nodes are in /dev/accel/.
    other = machine(tmp_path / "a", "dev/vfio/7", "dev/vfio/vfio", files=pci("0x10de", "0x0063"))
    assert probe("tpu", other).problem == "no TPU: /dev/vfio/7 are of other devices"
    card = machine(tmp_path / "b", "dev/vfio/7", files=pci("0x1ae0", "0x0042"))
    assert "other devices" in probe("tpu", card).problem
    npu = machine(tmp_path / "c", "dev/accel/accel0", files=GOOGLE)
    assert "there is no /dev/accel*" in probe("tpu", npu).problem


def test_a_chip_without_its_driver_is_said(tmp_path: Path) -> None:
    found = probe("tpu", machine(tmp_path, files=pci("0x1ae0", "0x005e")))
    assert "its driver's /dev/accel* or /dev/vfio/* are missing" in found.problem


def test_a_device_that_may_not_be_opened_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, "dev/nvidia0")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = probe("cuda", host)
    assert found.devices == ("/dev/nvidia0",)
    assert found.problem.startswith("/dev/nvidia0 may not be opened by this user; add the user")


def test_google_s_machines_are_known_by_their_firmware(tmp_path: Path) -> None:
    assert on_google_cloud(machine(tmp_path / "a", files=GOOGLE))
    other = machine(tmp_path / "b", files={"sys/class/dmi/id/sys_vendor": "QEMU\n"})
    assert not on_google_cloud(other) and not on_google_cloud(Host(tmp_path / "none"))
