"""TensorStore: the tensors of a checkpoint by name, from one safetensors file or from an indexed set of them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from zml.declared import Source
from zml.dtypes import DType
from zml.errors import CheckpointError, NotFoundError, ReadError
from zml.io.safetensors import FLOATS, STORED, Entry, read_header
from zml.io.transform import stored_sources
from zml.io.view import View
from zml.model_tree import named_leaves
from zml.tensor import Tensor
from zml.vfs import File, Vfs, urls

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SUFFIX = ".safetensors"
_OPENING = 16
"""Files of an index that are opened at a time."""


class TensorStore:
    """Names to entries (file, dtype, shape, byte range). Opening reads headers only.

    The files stay open until it is closed, so that what is loaded is what the headers said, whatever becomes of the
    paths. `with TensorStore.open("hf://Qwen/Qwen3-8B") as store: ...`
    """

    where: str
    """The path or URL of the file or folder, for messages."""
    entries: Mapping[str, Entry]
    streams: int | None
    """How many readers the Vfs's options ask for; None: what is fastest."""

    def __init__(
        self,
        where: str,
        entries: Mapping[str, Entry],
        files: Iterable[File],
        vfs: Vfs | None = None,
        streams: int | None = None,
    ) -> None:
        """Files of all entries; `vfs` is one to close with it."""
        self.where = where
        self.entries = entries
        self.streams = streams
        self._files = {file.url: file for file in files}
        self._vfs = vfs

    @staticmethod
    def open(url: Path | str, vfs: Vfs | None = None) -> "TensorStore":
        """Opens a safetensors file, or a folder: its model.safetensors, or what model.safetensors.index.json names.

        `url` is a local path or a URL of any scheme that `vfs` has; without one the store has its own. Raises
        CheckpointError where none is there, a header is out of order, or index and files disagree, ReadError and its
        kinds for what cannot be read.
        """
        own = Vfs() if vfs is None else None
        try:
            return _open(str(url), vfs or own or Vfs(), own)
        except BaseException:
            if own is not None:
                own.close()
            raise

    def file(self, url: str) -> File:
        """The opened file of entries, by its URL. Raises ReadError once the store is closed."""
        if url not in self._files:
            raise ReadError(f"{self.where}: the store was closed before its tensors were read")
        return self._files[url]

    def close(self) -> None:
        """Closes the files, and the Vfs where it is the store's own. What was loaded stays."""
        files, self._files = list(self._files.values()), {}
        for file in files:
            file.close()
        if self._vfs is not None:
            self._vfs.close()

    def __enter__(self) -> "TensorStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def view(self, dtype: Any = None, *, quantize: str | None = None) -> View:
        """Where a model declares its tensors from. `dtype`: what they are held in; None: as they are stored.

        `quantize` is the format of weights whose layers can do with less, see View.
        """
        dtype = None if dtype is None else DType.of(dtype)
        return View(self.where, self.entries, dtype, quantize=quantize)

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
            for stored, source in stored_sources(tensor):
                used.add(source.name)
                if source.name not in self.entries:
                    missing.append(source.name)
                else:
                    wrong += _faults(self.entries[source.name], stored.dtype, source)
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


def _faults(entry: Entry, dtype: DType, source: Source) -> list[str]:
    """What is in the way of loading a tensor of that type from its entry."""
    name, faults = source.name, []
    if entry.shape != source.dims:
        faults.append(f"{name} is {list(entry.shape)}, expected {list(source.dims)}")
    if entry.dtype not in STORED:
        faults.append(f"{name} is {entry.dtype}, which zml has no element type on devices for")
    elif source.quantized is not None:
        if entry.dtype not in FLOATS:
            faults.append(f"{name} is {entry.dtype}, expected {' or '.join(FLOATS)} to quantize")
    elif STORED[entry.dtype] != dtype and not (
        entry.dtype in FLOATS and any(dtype == STORED[x] for x in FLOATS)
    ):
        same = next((stored for stored, known in STORED.items() if known == dtype), None)
        expected = FLOATS if same in FLOATS else (same or str(dtype),)
        faults.append(f"{name} is {entry.dtype}, expected {' or '.join(expected)}")
    return faults


def first_names(names: list[str], most: int = 4) -> str:
    """A few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _open(url: str, vfs: Vfs, own: Vfs | None) -> TensorStore:
    is_local = urls.scheme(url) == "file"
    path = re.split(r"[?#]", url, maxsplit=1)[0]
    if _is_file(vfs, url) if is_local else path.endswith(_SUFFIX):
        try:
            file = vfs.open(url)
        except NotFoundError as error:
            raise CheckpointError(f"{error}: no weights") from error
        return TensorStore(url, _header(file), [file], own, vfs.options.streams)
    single, index = urls.join(url, _SINGLE), urls.join(url, _INDEX)
    with ThreadPoolExecutor(2, thread_name_prefix="zml-open") as pool:
        indexed = pool.submit(_found, lambda: vfs.read(index))
        opened = _found(lambda: vfs.open(single))
        if opened is not None:
            return TensorStore(url, _header(opened), [opened], own, vfs.options.streams)
        content = indexed.result()
    if content is None:
        raise CheckpointError(
            f"{url}: no weights: expected {_SINGLE} or {_INDEX} (zml reads the safetensors format)"
        )
    weight_map = _weight_map(index, content)
    names = sorted(set(weight_map.values()))
    opening = [partial(_open_indexed, vfs, url, index, name) for name in names]
    files: dict[str, File] = {}
    try:
        with ThreadPoolExecutor(_OPENING, thread_name_prefix="zml-open") as pool:
            # All are opened before one that fails is reported, so that those that were are closed.
            futures = [pool.submit(job) for job in opening]
            wait(futures)
            for name, future in zip(names, futures, strict=True):
                if not future.exception():
                    files[name] = future.result()[0]
        headers = {name: future.result()[1] for name, future in zip(names, futures, strict=True)}
        absent = sorted(name for name, file in weight_map.items() if name not in headers[file])
        if absent:
            raise CheckpointError(
                f"{index}: {first_names(absent)}: not in the file that the index names"
            )
    except BaseException:
        for file in files.values():
            file.close()
        raise
    entries = {name: headers[file][name] for name, file in weight_map.items()}
    return TensorStore(url, entries, files.values(), own, vfs.options.streams)


def _is_file(vfs: Vfs, url: str) -> bool:
    found = _found(lambda: vfs.stat(url))
    return found is not None and not found.is_folder


def _found[T](get: Callable[[], T]) -> T | None:
    try:
        return get()
    except NotFoundError:
        return None


def _header(file: File) -> dict[str, Entry]:
    try:
        return read_header(file)
    except BaseException:
        file.close()
        raise


def _weight_map(index: str, content: bytes) -> dict[str, str]:
    """Names of tensors to names of files."""
    try:
        weight_map = json.loads(content.decode("utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: expected a JSON object with a weight_map of tensor names to file names: {error!r:.300}"
        ) from error
    for name in names:
        # An index must not lead out of its folder, nor into a query: a checkpoint is untrusted input.
        if not isinstance(name, str) or any(c in name for c in "/\\\0?#%"):
            raise CheckpointError(
                f"{index}: file name {name!r:.200} is expected to be in the same folder"
            )
    return dict(weight_map)


def _open_indexed(vfs: Vfs, folder: str, index: str, name: str) -> tuple[File, dict[str, Entry]]:
    file = None if name in ("", ".", "..") else _found(lambda: vfs.open(urls.join(folder, name)))
    if file is None:
        raise CheckpointError(
            f"{index}: names {name!r:.200}, which is not in {folder}; fetch it again"
        )
    return file, _header(file)
