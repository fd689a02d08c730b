"""TensorStore: the tensors of a checkpoint by name, from one safetensors file or from an indexed set of them."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from zml.errors import CheckpointError
from zml.io.safetensors import Entry, read_header
from zml.io.spec import WeightSpec

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class TensorStore:
    """Names to entries (file, dtype, shape, byte range). Opening reads headers only."""

    def __init__(self, where: Path, entries: Mapping[str, Entry]) -> None:
        self.where = where
        self.entries = entries

    @staticmethod
    def open(folder: Path) -> "TensorStore":
        """Opens model.safetensors, or the files that model.safetensors.index.json names.

        Raises CheckpointError where neither is there, a header is out of order, or index and files disagree.
        """
        single, index = folder / _SINGLE, folder / _INDEX
        if single.is_file():
            return TensorStore(folder, read_header(single))
        if index.is_file():
            return TensorStore(folder, _read_index(folder, index))
        raise CheckpointError(
            f"{folder}: no weights: expected {_SINGLE} or {_INDEX} (zml reads the safetensors format)"
        )

    def check(self, specs: Iterable[WeightSpec]) -> list[str]:
        """Refuses missing tensors and wrong shapes, all named in one error; returns the names nobody declared."""
        specs = list(specs)
        missing = [spec.name for spec in specs if spec.name not in self.entries]
        wrong = [
            f"{spec.name} is {list(self.entries[spec.name].shape)}, expected {list(spec.shape)}"
            for spec in specs
            if spec.name in self.entries and self.entries[spec.name].shape != spec.shape
        ]
        if missing or wrong:
            faults = [f"{_first(missing)} missing"] if missing else []
            faults += [_first(wrong)] if wrong else []
            raise CheckpointError(
                f"{self.where}: the weights do not fit config.json: {'; '.join(faults)}. "
                "Are config.json and the safetensors files of the same model?"
            )
        return sorted(self.entries.keys() - {spec.name for spec in specs})


def _first(names: list[str], most: int = 4) -> str:
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
        raise CheckpointError(f"{index}: {_first(absent)}: not in the file that the index names")
    return {name: headers[file][name] for name, file in weight_map.items()}
