import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.errors import CheckpointError, ReadError, UnsupportedError
from zml.io import TensorStore
from zml.testing import files
from zml.testing.files import tensors
from zml.vfs import Vfs
from zml.vfs.memory import MemoryFileSystem

_ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def _shards(folder: Path, weight_map: Any, **files: dict[str, np.ndarray]) -> Path:
    for name, arrays in files.items():
        (folder / name).write_bytes(tensors(arrays))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_a_single_file_comes_before_an_index(tmp_path: Path) -> None:
    _shards(tmp_path, {"b": "s1"}, s1={"b": _ARRAY})
    (tmp_path / "model.safetensors").write_bytes(tensors({"a": _ARRAY}))
    assert list(TensorStore.open(tmp_path).entries) == ["a"]


def test_an_index_joins_its_files(tmp_path: Path) -> None:
    _shards(tmp_path, {"a": "s1", "b": "s2"}, s1={"a": _ARRAY}, s2={"b": _ARRAY})
    entries = TensorStore.open(tmp_path).entries
    assert {name: Path(entry.file).name for name, entry in entries.items()} == {
        "a": "s1",
        "b": "s2",
    }


def test_a_tensor_in_two_files_is_read_from_the_one_that_the_index_names(tmp_path: Path) -> None:
    _shards(tmp_path, {"a": "s1", "b": "s2"}, s1={"a": _ARRAY}, s2={"a": 0 * _ARRAY, "b": _ARRAY})
    assert TensorStore.open(tmp_path).entries["a"].file.endswith("/s1")


def test_a_folder_without_weights_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or .*index\.json"):
        TensorStore.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../s1", "in the same folder"),
        ("/etc/passwd", "in the same folder"),
        ("sub/s1", "in the same folder"),
        ("s1/", "in the same folder"),
        ("s1\0", "in the same folder"),
        ("s1?x", "in the same folder"),
        ("s1#x", "in the same folder"),
        ("%2e%2e%2fs1", "in the same folder"),
        ("..\\s1", "in the same folder"),
        ("..", "is not in"),
        (".", "is not in|in the same folder"),
        ("", "is not in"),
        ("s9", "is not in"),
        ("x" * 5000, "is not in"),
        ("\ud800", "is not in"),
        (7, "in the same folder"),
        (None, "in the same folder"),
        ("s2", "a: not in the file that the index names"),
    ],
)
def test_an_index_leads_only_to_files_beside_it(name: Any, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "s1").write_bytes(tensors({"a": _ARRAY}))
    _shards(folder, {"a": name}, s1={"a": _ARRAY}, s2={"b": _ARRAY})
    with pytest.raises(CheckpointError, match=said):
        TensorStore.open(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"1", b"{}", b'{"weight_map": 1}', b'{"weight_map": ["a"]}', b'{"weight_map": null}',
        b'{"weight_map": {"a": ["s1"]}}', b'{"weight_map": {"a": 1, "b": "s1"}}', b"\xff", b"[" * 200_000,
    ],
)  # fmt: skip
def test_a_damaged_index_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"index\.json: expected a JSON object"):
        TensorStore.open(tmp_path)


def test_check_names_all_that_does_not_fit_and_what_is_left_over(tmp_path: Path) -> None:
    arrays = dict.fromkeys("abz", _ARRAY) | {"i": np.ones(2, np.int32)}
    (tmp_path / "model.safetensors").write_bytes(tensors(arrays))
    store = TensorStore.open(tmp_path)
    view = store.view("bf16")
    good = [view.tensor("a", {"x": 2, "y": 3}), view.tensor("a", {"n": 6}, stored=(2, 3))]
    assert store.check(good) == ["b", "i", "z"]
    wrong = [
        view.tensor("a", {"x": 3, "y": 2}),
        view.tensor("b", {"x": 2, "y": 3, "z": 1}),
        view.tensor("z", {"x": 2, "y": 3}, dtype="i32"),
        view.tensor("i", {"x": 2}),
        view.tensor("z", {"x": 7}),
    ]
    missing = [view.tensor(f"m{i}", {"x": 1}) for i in range(6)]
    with pytest.raises(CheckpointError) as error:
        store.check(wrong + missing + good)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: ")
    assert "m0, m1, m2, m3 and 2 more missing" in message
    assert "a is [2, 3], expected [3, 2], b is [2, 3], expected [2, 3, 1]" in message
    assert "z is F32, expected I32, i is I32, expected F16 or BF16 or F32 or F64" in message
    assert "and 1 more" in message


def test_a_view_of_the_store_knows_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(tensors({"a": _ARRAY}))
    view = TensorStore.open(str(tmp_path)).view("bfloat16")
    assert (view.where, view.path, view.dtype) == (str(tmp_path), "", "bf16")
    assert view.tensor("a", ("x", "y")).shape.dims == (2, 3)


def test_every_scheme_of_the_vfs_is_read() -> None:
    index = json.dumps({"weight_map": {"a": "s1", "b": "s2"}}).encode()
    whole = tensors({"a": _ARRAY})
    contents = {
        "single/model.safetensors": whole,
        "indexed/model.safetensors.index.json": index,
        "indexed/s1": whole,
        "indexed/s2": tensors({"b": _ARRAY, "c": _ARRAY}),
        "none/config.json": b"{}",
    }
    vfs = Vfs(schemes={"memory": lambda _: MemoryFileSystem(contents)})
    for url in ("memory://single", "memory://single/", "memory://single/model.safetensors"):
        assert list(TensorStore.open(url, vfs).entries) == ["a"]
    store = TensorStore.open("memory://indexed", vfs)
    assert {n: e.file for n, e in store.entries.items()} == {
        "a": "memory://indexed/s1", "b": "memory://indexed/s2",
    }  # fmt: skip
    with pytest.raises(CheckpointError, match="memory://none: no weights: expected model"):
        TensorStore.open("memory://none", vfs)
    with pytest.raises(CheckpointError, match=r"x\.safetensors: there is no such file: no weights"):
        TensorStore.open("memory://none/x.safetensors", vfs)
    with pytest.raises(UnsupportedError, match="the scheme 'ftp' is not known"):
        TensorStore.open("ftp://x", vfs)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with files.store(tmp_path, {"a": _ARRAY}) as store:
        entry = store.entries["a"]
        assert store.file(entry.file).size == entry.end
    with pytest.raises(ReadError, match="the store was closed before its tensors were read"):
        store.file(entry.file)


def test_a_single_file_is_a_store(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(tensors({"a": np.ones(3, np.float32)}))
    assert list(TensorStore.open(path).entries) == ["a"]


def test_the_error_names_what_the_model_lacks_and_what_is_there_instead(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"model.up": np.ones(2, np.float32)})
    view = store.view()
    with pytest.raises(CheckpointError) as error:
        store.check([view.tensor("up", {"d": 2}), view.tensor("model.up", {"d": 3})])
    assert "up missing; model.up is [2], expected [3]" in str(error.value)
    with pytest.raises(CheckpointError, match=r"It has model\.up, which the model does not use"):
        store.check([view.tensor("up", {"d": 2})])
