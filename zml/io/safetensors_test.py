import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.errors import CheckpointError
from zml.io.safetensors import DTYPE_BITS, MAX_HEADER_BYTES, read_header
from zml.testing.files import safetensors, tensors


def _tensor(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _one(shape: Any, offsets: Any, dtype: Any = "F32", data: int = 8) -> bytes:
    return safetensors({"a": _tensor(shape, offsets, dtype)}, bytes(data))


_A = _tensor([2], [0, 8])
_HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "0 bytes is too short"),
    "short file": (b"\1\0\0", "3 bytes is too short"),
    "header beyond the file": (safetensors(b"{}", length=3), "claims 3 bytes, but the file has 2"),
    "header over the limit": (safetensors(b"{}", length=MAX_HEADER_BYTES + 1), "format allows"),
    "header of 2^64 - 1": (safetensors(b"{}", length=2**64 - 1), "format allows"),
    "header of nothing": (safetensors(b""), "the header begins with b''"),
    "a pickle": (struct.pack("<Q", 6) + b"\x80\x02}q\0.", "expected a JSON object"),
    "array": (safetensors([1]), "expected a JSON object"),
    "leading space": (safetensors(b" {}"), "expected a JSON object"),
    "not UTF-8": (safetensors(b'{"\xff": 1}'), "'utf-8' codec can't decode"),
    "not JSON": (safetensors(b"{'a': 1}"), "not valid JSON: Expecting property name"),
    "two objects": (safetensors(b"{}{}"), "not valid JSON: Extra data"),
    "a number of 5000 digits": (safetensors(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "nested too deep": (safetensors(b'{"a": ' + b"[" * 200_000), "not valid JSON"),
    "duplicate tensor": (safetensors(b'{"a": 1, "b": 2, "a": 3}'), "key 'a' stands there twice"),
    "duplicate key": (safetensors(b'{"a": {"dtype": "U8", "dtype": "I8"}}'), "'dtype' stands there"),
    "metadata not an object": (safetensors({"__metadata__": 1}), "__metadata__ is 1"),
    "metadata not strings": (safetensors({"__metadata__": {"a": 1}}), "an object of strings"),
    "tensor not an object": (safetensors({"a": 1}), "'a': expected an object of dtype"),
    "no shape": (safetensors({"a": {"dtype": "U8", "data_offsets": [0, 0]}}), "expected an object"),
    "one key more": (safetensors({"a": _A | {"b": 1}}), "expected an object of dtype, shape and"),
    "unknown dtype": (_one([2], [0, 8], "F31"), "unknown dtype 'F31'"),
    "dtype not a string": (_one([2], [0, 8], ["F32"]), "unknown dtype ['F32']"),
    "shape not a list": (_one(2, [0, 8]), "the shape is 2"),
    "negative shape": (_one([-2], [0, 8]), "the shape is [-2]"),
    "boolean shape": (_one([True, 2], [0, 8]), "the shape is [True, 2]"),
    "float shape": (_one([2.0], [0, 8]), "the shape is [2.0]"),
    "huge dimension": (_one([10**400], [0, 8]), "the shape is [1000"),
    "overflowing shape": (_one([2**62, 2**62], [0, 8]), "too large to exist"),
    "endless shape": (_one([2] * 10**5, [0, 8]), "too large to exist"),
    "wrong size": (_one([3], [0, 8]), "F32 [3] takes 12 bytes, its data_offsets hold 8"),
    "part of a byte": (_one([3], [0, 1], "F4", 1), "F4 [3] takes 12 bits, its data_offsets hold 1"),
    "one offset": (_one([2], [8]), "data_offsets is [8]"),
    "three offsets": (_one([2], [0, 8, 8]), "data_offsets is [0, 8, 8]"),
    "offsets reversed": (_one([2], [8, 0]), "data_offsets is [8, 0]"),
    "negative offset": (_one([2], [-8, 0]), "data_offsets is [-8, 0]"),
    "boolean offset": (_one([2], [False, 8]), "data_offsets is [False, 8]"),
    "float offset": (_one([2], [0, 8.0]), "data_offsets is [0, 8.0]"),
    "infinite offset": (safetensors(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, Infinity]}}'), "inf]"),
    "huge offset": (_one([2], [0, 10**4299]), "data_offsets is [0, 1000"),
    "offsets beyond the file": (_one([2**40], [0, 2**42]), "it is cut short"),
    "cut short": (_one([2], [0, 8], data=7), "it is cut short"),
    "trailing bytes": (_one([2], [0, 8], data=9), "1 bytes belong to no tensor"),
    "bytes without tensors": (safetensors({}, b"abc"), "3 bytes belong to no tensor"),
    "hole before": (_one([1], [4, 8]), "leaves a hole before it"),
    "hole between": (safetensors({"a": _A, "b": _tensor([1], [12, 16])}, bytes(16)), "'b' begins at data byte 12"),
    "overlap": (safetensors({"a": _A, "b": _tensor([2], [4, 12])}, bytes(12)), "overlaps the one before"),
    "same bytes twice": (safetensors({"a": _A, "b": _A}, bytes(8)), "overlaps the one before"),
    "empty tensor inside": (safetensors({"a": _A, "b": _tensor([0], [4, 4])}, bytes(8)), "overlaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", _HOSTILE)
def test_each_violation_has_its_own_error(case: str, tmp_path: Path) -> None:
    content, said = _HOSTILE[case]
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
    path.write_bytes(_one([8], [0, DTYPE_BITS[dtype]], dtype, DTYPE_BITS[dtype]))
    assert read_header(path)["a"].dtype == dtype


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_header(path)


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
    header = {"__metadata__": {"a": "b"}, "a": _A, "b": _tensor([2, 1], [8, 16], "I32")}
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
