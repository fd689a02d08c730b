import json
from pathlib import Path
from typing import Any

import pytest

from zml.errors import CheckpointError, ConfigError, UnsupportedError
from zml.llm.checkpoint import Checkpoint, read_json
from zml.vfs import Vfs
from zml.vfs.memory import MemoryFileSystem


def _write(folder: Path, config: Any, generation_config: Any = None) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps(config))
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return Checkpoint.open(str(folder))


def test_a_folder_of_any_scheme(tmp_path: Path) -> None:
    files = {
        "bucket/model/config.json": b'{"dtype": "float16"}',
        "bucket/model/generation_config.json": b"[]",
    }
    vfs = Vfs(schemes={"memory": lambda _: MemoryFileSystem(files)})
    with pytest.raises(
        CheckpointError, match=r"^memory://bucket/model/generation_config.json: holds"
    ):
        Checkpoint.open("memory://bucket/model", vfs)
    with pytest.raises(
        CheckpointError, match=r"none/config.json: .*; expected a checkpoint folder as"
    ):
        Checkpoint.open("memory://none", vfs)
    files["bucket/model/generation_config.json"] = b"{}"
    vfs.close()
    assert Checkpoint.open("memory://bucket/model", vfs).stored_dtype == "float16"


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="scheme 'ftp' is not known"):
        Checkpoint.open("ftp://host/model")


def test_what_is_no_folder_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, said in [
        ("none", "does not exist"),
        ("file", "is a file"),
        ("a\0b", "does not exist"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            Checkpoint.open(str(tmp_path / name))
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.open("~no-such-user/model")


def test_an_empty_folder_lacks_its_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        Checkpoint.open(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[1]", "holds a JSON list, expected an object"),
        (b"null", "holds a JSON NoneType, expected an object"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_damaged_json_names_its_file(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path / name}: {said}")


def test_a_file_that_is_not_required_may_be_absent(tmp_path: Path) -> None:
    assert read_json(tmp_path, "none.json") == {}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "float32"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"dtype": None, "torch_dtype": "float16"}, "float16"),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, "bfloat16"),
    ],
)
def test_both_spellings_of_the_dtype(config: Any, expected: str, tmp_path: Path) -> None:
    assert _write(tmp_path, config).stored_dtype == expected


@pytest.mark.parametrize("dtype", ["int4", ["float32"], 3, "auto"])
def test_an_unknown_dtype_is_refused(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of float32, bfloat16, float16"):
        _ = _write(tmp_path, {"dtype": dtype}).stored_dtype


@pytest.mark.parametrize(
    ("config", "generation_config", "expected"),
    [
        ({}, None, set()),
        ({"eos_token_id": 2}, None, {2}),
        ({"eos_token_id": None}, {"eos_token_id": [3, 4]}, {3, 4}),
        ({"eos_token_id": 2}, {"eos_token_id": [3, 2]}, {2, 3}),
        ({"eos_token_id": 0}, {"eos_token_id": []}, {0}),
    ],
)
def test_the_eos_ids_of_both_files_count(
    config: Any, generation_config: Any, expected: set[int], tmp_path: Path
) -> None:
    assert _write(tmp_path, config, generation_config).eos_token_ids() == expected


@pytest.mark.parametrize("value", ["2", -1, True, 2.0, [1, None], [[2]], {"a": 1}])
def test_an_eos_id_that_is_none_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^generation_config\.json: eos_token_id is "):
        _write(tmp_path, {}, {"eos_token_id": value}).eos_token_ids()
