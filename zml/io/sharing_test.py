"""Loads in which tensors have bytes, files or sources in common: each is right, made in time, and counted once."""

import json
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.io import LoadReport, TensorStore, load, loading
from zml.io.transform import Making
from zml.io.writers import Writers
from zml.platform import CpuOptions, Platform
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh, Strategy
from zml.sharding.physical import Geometry, PhysicalMesh
from zml.testing import files, fresh
from zml.vfs import Cancellation, Checksum, Options, Vfs
from zml.vfs.file import LocalFile


def _total(matrix: Any, code: Any) -> Any:
    return matrix.derive((matrix.value.sum() * code.value[0]).reshape(()), ())


def test_a_program_waits_for_parts_that_another_tensor_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut over both axes of a mesh, in either order: two of four devices hold the same in both."""
    platform = Platform.init("cpu", CpuOptions(4))
    mesh = PhysicalMesh.given(
        platform.devices, bus=(2, Geometry.TREE), link=(2, Geometry.POINT_TO_POINT)
    )
    shardings = [
        platform.sharding(
            tag, LogicalMesh(**{tag: HIGH_BANDWIDTH}), Strategy(**{tag: axes}), mesh=mesh
        )
        for tag, axes in (("m", ("bus", "link")), ("n", ("link", "bus")))
    ]
    array = fresh.generator().random((4, 1 << 20)).astype(np.float32)
    store = files.store(tmp_path, {"w": array})
    view, real = store.view(), LocalFile.read_into
    last = store.entries["w"].begin + 3 * array[0].nbytes

    def late(
        file: LocalFile, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        if offset + len(buffer) > last:
            time.sleep(0.5)
        real(file, offset, buffer, cancellation)

    monkeypatch.setattr(LocalFile, "read_into", late)
    declared = [
        view.tensor("w", ("a", "b"), a="m"),
        view.derived("twice", lambda w: w * 2.0, view.tensor("w", ("a", "b")), a="n"),
    ]
    plain, made = load(declared, store, platform, shardings=shardings)
    assert plain.numpy().tobytes() == array.tobytes()
    assert made.numpy().tobytes() == (2 * array).tobytes()


@pytest.mark.parametrize("shared", [True, False])
def test_tensors_are_made_as_soon_as_their_sources_are_there(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they all have a small source in common: else all large ones would be in memory in the end."""
    count, rng = 6, fresh.generator()
    codes = {f"code{i}": rng.random(256).astype(np.float32) for i in range(count)}
    large = {f"w{i}": rng.random((512, 1024)).astype(np.float32) for i in range(count)}
    files.store(tmp_path, {**codes, **large}).close()
    report, read, make = LoadReport(), [], Making._make

    def recorded(making: Making) -> Any:
        read.append(report.bytes_read)
        return make(making)

    monkeypatch.setattr(Making, "_make", recorded)
    with Vfs(Options(streams=1)) as vfs, TensorStore.open(str(tmp_path), vfs) as store:
        view = store.view()
        declared = [
            view.derived(
                f"x{i}",
                _total,
                view.tensor(f"w{i}", ("a", "b")),
                view.tensor("code0" if shared else f"code{i}", ("k",)),
            )
            for i in range(count)
        ]
        results: Any = load(declared, store, Platform.init("cpu"), report=report)
    for i, result in enumerate(results):
        expected = (
            large[f"w{i}"].sum(dtype=np.float64) * codes["code0" if shared else f"code{i}"][0]
        )
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4)
    assert len(read) == count
    for number, bytes_read in enumerate(read, 1):
        assert bytes_read <= number * large["w0"].nbytes + 2 * count * 1024


@pytest.mark.parametrize("staged", [True, False])
def test_bytes_that_several_have_a_use_for_are_needed_once(
    staged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loading, "Writers", lambda client, **more: Writers(client, staged=staged, **more)
    )
    array = fresh.generator().standard_normal((64, 128)).astype(np.float32)
    store, platform, report = (
        files.store(tmp_path, {"w": array}),
        Platform.init("cpu"),
        LoadReport(),
    )
    view = store.view()
    values, scales = view.packed("w", 64, 128, "int8")
    declared = {"a": view.tensor("w", ("a", "b")), "b": view.tensor("w", ("a", "b"))}
    for _ in range(2):  # a report tells of one load
        load(declared, store, platform, report=report)
        assert (report.bytes_needed, report.bytes_read) == (array.nbytes, array.nbytes)
    load(declared | {"v": values, "s": scales}, store, platform, report=report)
    assert report.bytes_needed == array.nbytes


@pytest.mark.parametrize("quantized", [True, False])
def test_a_file_of_which_little_is_needed_is_not_read_for_its_checksum(
    quantized: bool, tmp_path: Path
) -> None:
    rng = fresh.generator()
    a = {"q": rng.standard_normal((2048, 2048)).astype(np.float32)}
    b = {"small": np.ones(16, np.float32), "unused": rng.random(2 << 20).astype(np.float32)}
    weight_map: dict[str, str] = {}
    for name, arrays in (("a.safetensors", a), ("b.safetensors", b)):
        (tmp_path / name).write_bytes(files.tensors(arrays))
        weight_map |= dict.fromkeys(arrays, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    report = LoadReport()
    with TensorStore.open(str(tmp_path)) as store:
        url = store.entries["small"].file
        file, wrong = store.file(url), zlib.crc32(b"other")
        # That of other bytes: whoever compares it fails.
        file.checksum = Checksum("crc32", wrong.to_bytes(4, "big"))
        view = store.view()
        declared: dict[str, Any] = {"small": view.tensor("small", ("a",))}
        if quantized:
            declared["v"], declared["s"] = view.packed("q", 2048, 2048, "int8")
        load(declared, store, Platform.init("cpu"), report=report)
    assert report.bytes_read == 64 + (a["q"].nbytes if quantized else 0)
