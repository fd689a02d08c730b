"""safetensors files that each break one rule of the format, with what the error says of it.

They are in zml/io/hostile as files too, for other readers and as a start for the fuzzer: `python -m zml.testing.hostile
zml/io/hostile` writes them. errors.json there holds what the error says.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

from zml.io.safetensors import MAX_HEADER_BYTES
from zml.testing.files import safetensors


def tensor(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    """What a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(shape: Any, offsets: Any, dtype: Any = "F32", data: int = 8) -> bytes:
    """A file of one tensor `a` and that many bytes."""
    return safetensors({"a": tensor(shape, offsets, dtype)}, bytes(data))


_A = tensor([2], [0, 8])
HOSTILE: dict[str, tuple[bytes, str]] = {
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
    "nested too deep": (safetensors(b'{"a": ' + b"[" * 20_000), "not valid JSON"),
    "duplicate tensor": (safetensors(b'{"a": 1, "b": 2, "a": 3}'), "key 'a' stands there twice"),
    "duplicate key": (safetensors(b'{"a": {"dtype": "U8", "dtype": "I8"}}'), "'dtype' stands there"),
    "metadata not an object": (safetensors({"__metadata__": 1}), "__metadata__ is 1"),
    "metadata not strings": (safetensors({"__metadata__": {"a": 1}}), "an object of strings"),
    "tensor not an object": (safetensors({"a": 1}), "'a': expected an object of dtype"),
    "no shape": (safetensors({"a": {"dtype": "U8", "data_offsets": [0, 0]}}), "expected an object"),
    "one key more": (safetensors({"a": _A | {"b": 1}}), "expected an object of dtype, shape and"),
    "unknown dtype": (one([2], [0, 8], "F31"), "unknown dtype 'F31'"),
    "dtype not a string": (one([2], [0, 8], ["F32"]), "unknown dtype ['F32']"),
    "shape not a list": (one(2, [0, 8]), "the shape is 2"),
    "negative shape": (one([-2], [0, 8]), "the shape is [-2]"),
    "boolean shape": (one([True, 2], [0, 8]), "the shape is [True, 2]"),
    "float shape": (one([2.0], [0, 8]), "the shape is [2.0]"),
    "huge dimension": (one([10**400], [0, 8]), "the shape is [1000"),
    "overflowing shape": (one([2**62, 2**62], [0, 8]), "too large to exist"),
    "endless shape": (one([2] * 10**4, [0, 8]), "too large to exist"),
    "wrong size": (one([3], [0, 8]), "F32 [3] takes 12 bytes, its data_offsets hold 8"),
    "part of a byte": (one([3], [0, 1], "F4", 1), "F4 [3] takes 12 bits, its data_offsets hold 1"),
    "one offset": (one([2], [8]), "data_offsets is [8]"),
    "three offsets": (one([2], [0, 8, 8]), "data_offsets is [0, 8, 8]"),
    "offsets reversed": (one([2], [8, 0]), "data_offsets is [8, 0]"),
    "negative offset": (one([2], [-8, 0]), "data_offsets is [-8, 0]"),
    "boolean offset": (one([2], [False, 8]), "data_offsets is [False, 8]"),
    "float offset": (one([2], [0, 8.0]), "data_offsets is [0, 8.0]"),
    "infinite offset": (safetensors(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, Infinity]}}'), "inf]"),
    "huge offset": (one([2], [0, 10**4299]), "data_offsets is [0, 1000"),
    "offsets beyond the file": (one([2**40], [0, 2**42]), "it is cut short"),
    "cut short": (one([2], [0, 8], data=7), "it is cut short"),
    "trailing bytes": (one([2], [0, 8], data=9), "1 bytes belong to no tensor"),
    "bytes without tensors": (safetensors({}, b"abc"), "3 bytes belong to no tensor"),
    "hole before": (one([1], [4, 8]), "leaves a hole before it"),
    "hole between": (safetensors({"a": _A, "b": tensor([1], [12, 16])}, bytes(16)), "'b' begins at data byte 12"),
    "overlap": (safetensors({"a": _A, "b": tensor([2], [4, 12])}, bytes(12)), "overlaps the one before"),
    "same bytes twice": (safetensors({"a": _A, "b": _A}, bytes(8)), "overlaps the one before"),
    "half of a surrogate pair": (safetensors(b'{"a\\ud800": 1}'), "not valid JSON"),
    "minus zero": (safetensors(b'{"a": {"dtype": "U8", "shape": [-0]}}'), "-0 is not an integer"),
    "overflow before a zero": (one([2**62, 2**62, 0], [0, 0], data=0), "too large to exist"),
    "empty tensor inside": (safetensors({"a": _A, "b": tensor([0], [4, 4])}, bytes(8)), "overlaps"),
}  # fmt: skip
"""Each with a name of its own."""


def write(folder: Path) -> None:
    """Writes each as a file, and errors.json."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    for case, (content, _) in HOSTILE.items():
        (folder / file_name(case)).write_bytes(content)
    errors = {file_name(case): said for case, (_, said) in HOSTILE.items()}
    (folder / "errors.json").write_text(json.dumps(errors, indent=1) + "\n", "utf-8")


def file_name(case: str) -> str:
    """The file of a case."""
    return "".join(c if c.isalnum() else "_" for c in case) + ".safetensors"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
