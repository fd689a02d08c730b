"""TensorStore: the tensors of a checkpoint by name, from one safetensors file or from an indexed set of them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zml.dtypes import DType
from zml.errors import CheckpointError, UnsupportedError
from zml.io.safetensors import FLOATS, STORED, Entry, read_header
from zml.io.view import View
from zml.model_tree import named_leaves
from zml.tensor import Tensor

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class TensorStore:
    """Names to entries (file, dtype, shape, byte range). Opening reads headers only."""

    where: Path
    """The file or folder, for messages."""
    entries: Mapping[str, Entry]

    def __init__(self, where: Path, entries: Mapping[str, Entry]) -> None:
        self.where = where
        self.entries = entries

    @staticmethod
    def open(path: Path | str, vfs: Any = None) -> "TensorStore":
        """Opens a safetensors file, or a folder: its model.safetensors, or what model.safetensors.index.json names.

        Raises CheckpointError where none is there, a header is out of order, or index and files disagree,
        UnsupportedError for a URL.
        """
        if "://" in str(path):
            raise UnsupportedError(
                f"{path}: only local files and folders are read so far; download the checkpoint and give its folder"
            )
        folder = Path(path)
        if folder.is_file():
            return TensorStore(folder, read_header(folder))
        single, index = folder / _SINGLE, folder / _INDEX
        if single.is_file():
            return TensorStore(folder, read_header(single))
        if index.is_file():
            return TensorStore(folder, _read_index(folder, index))
        raise CheckpointError(
            f"{folder}: no weights: expected {_SINGLE} or {_INDEX} (zml reads the safetensors format)"
        )

    def view(self, dtype: Any = None, *, quantize: str | None = None) -> View:
        """Where a model declares its tensors from. `dtype`: what they are held in; None: as they are stored.

        `quantize` is the format of weights whose layers can do with less, see View.
        """
        dtype = None if dtype is None else DType.of(dtype)
        return View(str(self.where), self.entries, dtype, quantize=quantize)

    def check(self, model: Any) -> list[str]:
        """Refuses tensors of a model that are missing or of another shape or type, all named in one error.

        Returns the names in the checkpoint that the model does not use. Raises CheckpointError.
        """
        used: set[str] = set()
        missing, wrong = [], []
        for path, tensor in named_leaves(model):
            if not isinstance(tensor, Tensor) or tensor.source is None:
                raise CheckpointError(
                    f"{path} of the model is {tensor!r:.120}, which is not of a checkpoint; declare it with View.tensor"
                )
            name = tensor.source.name
            used.add(name)
            if name not in self.entries:
                missing.append(name)
            else:
                wrong += _faults(self.entries[name], tensor)
        unused = sorted(self.entries.keys() - used)
        if missing or wrong:
            faults = [f"{first_names(missing)} missing"] if missing else []
            faults += [first_names(wrong)] if wrong else []
            others = (
                f" It has {first_names(unused)}, which the model does not use." if unused else ""
            )
            raise CheckpointError(
                f"{self.where}: the checkpoint does not fit the model: {'; '.join(faults)}.{others} Are the model's "
                "names and sizes (config.json) those of these safetensors files?"
            )
        return unused


def _faults(entry: Entry, tensor: Tensor) -> list[str]:
    """What is in the way of loading a tensor from its entry."""
    assert tensor.source is not None
    name, faults = tensor.source.name, []
    if entry.shape != tensor.source.dims:
        faults.append(f"{name} is {list(entry.shape)}, expected {list(tensor.source.dims)}")
    if tensor.source.quantized is not None:
        if entry.dtype not in FLOATS:
            faults.append(f"{name} is {entry.dtype}, expected {' or '.join(FLOATS)} to quantize")
    elif STORED.get(entry.dtype) != tensor.dtype and not (
        entry.dtype in FLOATS and any(tensor.dtype == STORED[x] for x in FLOATS)
    ):
        same = next((stored for stored, dtype in STORED.items() if dtype == tensor.dtype), None)
        expected = FLOATS if same in FLOATS else (same or str(tensor.dtype),)
        faults.append(f"{name} is {entry.dtype}, expected {' or '.join(expected)}")
    return faults


def first_names(names: list[str], most: int = 4) -> str:
    """A few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _read_index(folder: Path, index: Path) -> dict[str, Entry]:
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except OSError as error:
        raise CheckpointError(f"{index}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: expected a JSON object with a weight_map of tensor names to file names: {error!r:.300}"
        ) from error
    headers: dict[str, dict[str, Entry]] = {}
    for name in files:
        # An index must not lead out of its folder: a checkpoint is untrusted input.
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise CheckpointError(
                f"{index}: file name {name!r:.200} is expected to be in the same folder"
            )
        if not os.path.isfile(folder / name):  # noqa: PTH113  # Path.is_file raises for a name that is too long
            raise CheckpointError(
                f"{index}: names {name!r:.200}, which is not in {folder}; fetch it again"
            )
        headers[name] = read_header(folder / name)
    absent = sorted(name for name, file in weight_map.items() if name not in headers[file])
    if absent:
        raise CheckpointError(
            f"{index}: {first_names(absent)}: not in the file that the index names"
        )
    return {name: headers[file][name] for name, file in weight_map.items()}
