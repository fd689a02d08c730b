"""The IDX files that MNIST is published in: big-endian header, then bytes (yann.lecun.com/exdb/mnist)."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from zml.errors import ZmlError

_BYTES = 0x08
"""IDX's number for unsigned bytes, the only type that MNIST uses."""


class DataError(ZmlError):
    """A data file is missing, damaged or not what its name says."""


def read_mnist(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28] (u8) and labels [n] (i32) of `train` or `t10k`. Raises DataError."""
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or not len(labels):
        raise DataError(
            f"{folder}: {part} has images {list(images.shape)} and labels {list(labels.shape)}; "
            "expected [n, 28, 28] and [n], with n of 1 or more: take both files from the same data set"
        )
    if labels.max() > 9:
        raise DataError(
            f"{folder}: {part} has the label {labels.max()}; expected digits, 0 to 9: is this MNIST?"
        )
    return images, labels.astype(np.int32)


def read_idx(path: Path, rank: int) -> np.ndarray:
    """The bytes of an IDX file, packed by gzip if its name ends so. Raises DataError."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}; fetch it again") from error
    head = 4 + 4 * rank
    expected = bytes([0, 0, _BYTES, rank])
    if data[:4] != expected:
        raise DataError(
            f"{path}: begins with {data[:4].hex(' ') or 'nothing'}, expected {expected.hex(' ')} "
            f"(IDX, bytes, {rank} dims): is it another file, or still packed?"
        )
    if len(data) < head:
        raise DataError(f"{path}: ends within its header of {head} bytes; fetch it again")
    dims = struct.unpack(f">{rank}I", data[4:head])
    if len(data) - head != math.prod(dims):
        raise DataError(
            f"{path}: its header says {list(dims)}, {math.prod(dims)} bytes, but {len(data) - head} follow; "
            "fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(dims)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"{folder}: there is no {name} or {name}.gz; --data expects the four files of MNIST in one folder, "
        "or leave it out: digits are drawn then"
    )
