import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.errors import CheckpointError, NotFoundError, ReadError
from zml.io import fuzz
from zml.io.safetensors import DTYPE_BITS, Entry
from zml.io.safetensors import read_header as read
from zml.testing import hostile
from zml.testing.files import safetensors, tensors
from zml.testing.hostile import HOSTILE, one, tensor
from zml.vfs import Vfs
from zml.vfs.memory import MemoryFile


def read_header(path: Path) -> dict[str, Entry]:
    with Vfs() as vfs, vfs.open(str(path)) as file:
        return read(file)


@pytest.mark.parametrize("case", HOSTILE)
def test_each_violation_has_its_own_error(case: str, tmp_path: Path) -> None:
    content, said = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_header(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert len(message) < 1000


def test_a_header_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    arrays: dict[str, np.ndarray] = {
        "b": np.ones((2, 3), np.float16),
        "scalar": np.zeros((), np.float32),
        "empty": np.zeros((0, 5), np.float32),
        "a": np.ones(3, np.uint8),
    }
    content = tensors(arrays)
    path.write_bytes(content)
    entries = read_header(path)
    assert {name: entry.shape for name, entry in entries.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    for name, entry in entries.items():
        assert content[entry.begin : entry.end] == arrays[name].tobytes()


def test_a_file_without_tensors_is_legal(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(safetensors(b"{}      "))
    assert read_header(path) == {}


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_has_its_size(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(one([8], [0, DTYPE_BITS[dtype]], dtype, DTYPE_BITS[dtype]))
    assert read_header(path)["a"].dtype == dtype


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read: No such file"):
        read_header(tmp_path / "none")
    with pytest.raises(ReadError, match="cannot be read: it is a folder"):
        read_header(tmp_path)


@pytest.mark.parametrize("name_bytes", [10, 300_000])
def test_a_header_takes_one_read_or_two(name_bytes: int) -> None:
    content = safetensors({"x" * name_bytes: tensor([2], [0, 8])}, bytes(8))
    reads: list[tuple[int, int]] = []

    class Counting(MemoryFile):
        def read(self, offset: int = 0, size: int | None = None) -> bytes:
            assert size is not None
            reads.append((offset, size))
            return super().read(offset, size)

    file = Counting("memory://x", content)
    entry = read(file)["x" * name_bytes]
    assert (entry.begin, entry.end) == (len(content) - 8, len(content))
    assert len(reads) == (1 if name_bytes < 1000 else 2)
    assert sum(size for _, size in reads) <= len(content)


def _mutate(value: Any, rng: random.Random) -> Any:
    """One random change somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return value | {rng.choice([key, key, key + "x"]): _mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], _mutate(value[at], rng), *value[at + rng.randint(0, 1) :]]
    new: list[Any] = [
        0,
        -1,
        1,
        4,
        2**31,
        2**63,
        2**64,
        10**300,
        0.5,
        1e999,
        True,
        None,
        "",
        "F64",
        [],
        {},
    ]
    return rng.choice([*new, [value], {"": value}, "\ud800", "x" * 1000])


def test_mutated_files_raise_nothing_but_checkpoint_errors(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "x"
    header = {
        "__metadata__": {"a": "b"},
        "a": tensor([2], [0, 8]),
        "b": tensor([2, 1], [8, 16], "I32"),
    }
    refused = 0
    for _ in range(600):
        if rng.random() < 0.6:
            mutant = header
            for _ in range(rng.randint(1, 3)):
                mutant = _mutate(mutant, rng)
            content = safetensors(json.dumps(mutant).encode(), bytes(16))
        else:
            raw = bytearray(safetensors(header, bytes(16)))
            for _ in range(rng.randint(1, 4)):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            content = bytes(raw[: rng.randint(0, len(raw)) if rng.random() < 0.3 else None])
        path.write_bytes(content)
        try:
            read_header(path)
        except CheckpointError as error:
            refused += 1
            assert len(str(error)) < 1000
    assert 400 < refused < 600  # some changes are harmless; most must be found


def test_the_folder_of_hostile_files_is_that_table() -> None:
    """`python -m zml.testing.hostile zml/io/hostile` writes it again."""
    files = {path.name: path.read_bytes() for path in fuzz.HOSTILE.iterdir()}
    errors = json.loads(files.pop("errors.json"))
    assert files == {hostile.file_name(case): content for case, (content, _) in HOSTILE.items()}
    assert errors == {hostile.file_name(case): said for case, (_, said) in HOSTILE.items()}
    assert len(files) == len(HOSTILE) and sum(map(len, files.values())) < 200_000
