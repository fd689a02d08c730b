"""What is measured: each case a limit, zml and the peers that fit, all on the same bytes."""

from __future__ import annotations

import json
import statistics
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bench import child

RAW = "tools.bench.load.peers.raw"
ZML = "tools.bench.load.worker"
PEERS = {
    "safetensors": "tools.bench.load.peers.safetensors_peer",
    "runai-model-streamer": "tools.bench.load.peers.runai_peer",
    "fastsafetensors": "tools.bench.load.peers.fastsafetensors_peer",
}
IMPORTS = {"runai-model-streamer": "runai_model_streamer", "fastsafetensors": "fastsafetensors"}
BLOCK = 8 << 20


@dataclass
class Contender:
    """One way to do a case, and what it took each round."""

    name: str
    module: str
    job: dict[str, Any]
    python: str | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None

    def measure(self) -> None:
        """Runs it once, in a process of its own; one that failed is not tried again."""
        if self.problem:
            return
        answer = child.run(self.python, self.module, self.job)
        if "error" in answer:
            self.problem = str(answer["error"])
        else:
            self.samples.append(answer)

    def median(self, name: str) -> float | None:
        """A figure over the quiet rounds, or over all where none was; None where there is none."""
        samples = [x for x in self.samples if not child.is_noisy(x)] or self.samples
        values = [x[name] for x in samples if name in x]
        return statistics.median(values) if values else None


@dataclass
class Case:
    """Contenders on the same bytes. The best of `limits` is what the others are held against."""

    name: str
    what: str
    limits: list[Contender]
    contenders: list[Contender]
    served: bool = False
    """A server on this machine is part of it, whose processor time is no noise."""

    def all(self) -> list[Contender]:
        """Limits first."""
        return [*self.limits, *self.contenders]

    def best_limit(self) -> Contender | None:
        """The limit whose median is the best."""
        measured = [x for x in self.limits if x.samples]
        return min(measured, key=lambda x: x.median("seconds") or 0, default=None)


def local(
    name: str,
    what: str,
    path: Path,
    cached: bool,
    readers: Sequence[int],
    peers: dict[str, str | None],
) -> Case:
    """A file of a local disk, in the page cache or not. `peers` maps names to interpreters (None: this one)."""
    job = {"files": [str(path)], "cached": cached, "memory": _memory(path.stat().st_size)}
    raw = {"path": str(path), "size": path.stat().st_size, "block": BLOCK}
    return Case(
        name,
        what,
        [_raw({**job, **raw}, count) for count in readers],
        [
            _kept({**job, **raw}),
            Contender("zml", ZML, {**job, "url": str(path.parent), "devices": 1}),
            *(Contender(peer, PEERS[peer], job, python) for peer, python in peers.items()),
        ],
    )


def remote(
    name: str,
    what: str,
    url: str,
    raw_url: str,
    size: int,
    readers: Sequence[int],
    environment: Mapping[str, str] | None = None,
) -> Case:
    """A server on this machine. `raw_url` is where plain GETs find the file of `size` bytes."""
    raw = {"url": raw_url, "size": size, "block": BLOCK, "cached": True}
    job = {
        "url": url,
        "devices": 1,
        "environment": dict(environment or {}),
        "memory": _memory(size),
    }
    return Case(
        name,
        what,
        [_raw(raw, count) for count in readers],
        [_kept(raw | {"memory": _memory(size)}), Contender("zml", ZML, job)],
        served=True,
    )


def sharded(path: Path, devices: int) -> Case:
    """All tensors cut over several CPU devices."""
    job = {
        "files": [str(path)],
        "cached": True,
        "url": str(path.parent),
        "devices": devices,
        "memory": _memory(path.stat().st_size),
    }
    what = f"every tensor cut over {devices} CPU devices, page cache"
    return Case("sharded", what, [], [Contender("zml", ZML, job)])


def first_byte(folder: Path) -> Case:
    """Opening an indexed checkpoint and having one small tensor of it on the device."""
    job = {"url": str(folder), "devices": 1, "only": "layers.0.norm.weight"}
    what = "8 files of 2 GB and their index, one tensor on the device"
    return Case("first byte", what, [], [Contender("zml", ZML, job)])


def _kept(job: dict[str, Any]) -> Contender:
    return Contender("4 readers, kept", RAW, {**job, "readers": 4, "keep": True})


def _memory(size: int) -> int:
    """What a loader of so many bytes may touch, in whole huge pages."""
    return -(-size * 5 // 4 >> 21) << 21


def _raw(job: dict[str, Any], readers: int) -> Contender:
    return Contender(f"{readers} readers", RAW, {**job, "readers": readers})


def sparse_index(folder: Path, files: int = 8, size: int = 2 << 30, layers: int = 40) -> Path:
    """An index of files that are as large as those of a 16 GB model, and take no room: their bytes are holes."""
    weight_map: dict[str, str] = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        header: dict[str, Any] = {}
        rows, offset = size // 2 // 4096 // (layers // files), 0
        for layer in range(number * layers // files, (number + 1) * layers // files):
            tensors: list[tuple[str, list[int]]] = [("norm.weight", [4096])]
            tensors += [(f"part{i}.weight", [rows // 8, 4096]) for i in range(8)]
            for tensor, shape in tensors:
                end = offset + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
                full = f"layers.{layer}.{tensor}"
                header[full] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
                weight_map[full] = name
                offset = end
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
