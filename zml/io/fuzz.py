"""Fuzzing of the safetensors parser: `bazel run //zml/io:fuzz -- --seconds=60`.

Files are made by a grammar and from those in hostile/, and changed: their JSON, its text, their bytes. For each, the
parser must either raise CheckpointError or give what the safetensors library gives: names, dtypes, shapes, bytes. What
the library takes and the parser does not is no fault: the parser is the stricter one. Nor may anything take long or
much memory. A file that fails is written to a folder, with the seed to make it again.
"""

import argparse
import contextlib
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors

from zml.errors import CheckpointError
from zml.io.safetensors import DTYPE_BITS, Entry, read_header
from zml.vfs import Options
from zml.vfs.file import LocalFileSystem

_deserialize: Callable[[bytes], Any] = safetensors.deserialize
HOSTILE = Path(__file__).parent / "hostile"
"""Files that break one rule each, see zml.testing.hostile."""

_NUMBERS = [
    0, 1, 2, 3, 4, 7, 8, 9, 64, 255, 256, 65536, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**61, 2**62, 2**63 - 1, 2**63,
    2**64 - 1, 2**64, 10**30, 10**300, -1, -8, -(2**63), 0.5, 1.0, 1e300, 1e999, -0.0,
]  # fmt: skip
_VALUES: list[Any] = [None, True, False, "", "F32", "a", "\ud800", "\0", "é", [], {}, [[]], {"": 0}]
_TOKENS = [
    b"-0", b"1e0", b"1.0", b"0x1", b"01", b"+1", b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b'"',
    b"\\", b",", b":", b"{", b"}", b"[", b"]", b" ", b"\t", b"\n", b"\r", b"\x0b", b"\x0c", b"\x00", b"\xa0",
    b"\xc2\xa0", b"\xe2\x80\xa8", b"\xff", b"\xef\xbb\xbf", b"\\u0041", b"\\ud800", b"\\ud83d\\ude00",
    b"\\udc00\\ud800", b"/**/", b"//", b"'", b"1_0", b"9" * 5000, b'"a":', b'"dtype":', b'"__metadata__":{},',
    b'"__metadata__":{"a":"b","a":"c"},', b'"__metadata__":null,',
]  # fmt: skip


@dataclass
class FuzzError(Exception):
    """A file on which the parser is wrong."""

    problem: str
    content: bytes

    def __str__(self) -> str:
        return self.problem


@dataclass
class Report:
    """What was tried."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    """Seconds of the parser for one file."""


def healthy(rng: random.Random) -> bytes:
    """A file in order, of random names, dtypes and shapes."""
    header: dict[str, Any] = {}
    data = bytearray()
    if rng.random() < 0.5:
        header["__metadata__"] = {_name(rng): _name(rng) for _ in range(rng.randint(0, 3))}
    entries = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 20])):
        dtype = rng.choice(list(DTYPE_BITS))
        shape = [rng.choice([0, 1, 1, 2, 3, 4, 8, 8]) for _ in range(rng.randint(0, 4))]
        bits = DTYPE_BITS[dtype]
        for dim in shape:
            bits *= dim
        if bits % 8:
            shape, bits = [*shape, 8], bits * 8
        if bits > 8 * 4096:
            continue
        begin = len(data)
        data += rng.randbytes(bits // 8)
        entries.append((dtype, shape, [begin, len(data)]))
    rng.shuffle(entries)
    for dtype, shape, offsets in entries:
        fields = [("dtype", dtype), ("shape", shape), ("data_offsets", offsets)]
        rng.shuffle(fields)
        name = _name(rng) if rng.random() < 0.5 else ""
        header[f"t{len(header)}" if not name or name in header else name] = dict(fields)
    raw = json.dumps(
        header,
        ensure_ascii=rng.random() < 0.5,
        separators=rng.choice([(",", ":"), (", ", ": ")]),
        indent=rng.choice([None, None, 1]),
    ).encode()
    return _file(raw + b" " * rng.choice([0, 0, -len(raw) % 8]), bytes(data))


def mutated(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """A few changes to a file."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        content = rng.choice(_MUTATIONS)(content, rng, other)
    return content


def check(content: bytes, read: Callable[[bytes], dict[str, Entry]]) -> str:
    """What became of a file: "accepted" by both, "refused", "stricter" than the library. Raises FuzzError."""
    try:
        entries = read(content)
    except CheckpointError as error:
        if len(str(error)) > 2000:
            raise FuzzError(f"the message has {len(str(error))} characters", content) from error
        return "refused" if _library(content) is None else "stricter"
    except Exception as error:
        raise FuzzError(f"raised {type(error).__name__}: {error!s:.500}", content) from error
    found = {
        name: (entry.dtype, list(entry.shape), content[entry.begin : entry.end])
        for name, entry in entries.items()
    }
    theirs = _library(content)
    if theirs is None:
        raise FuzzError(f"accepted what the library refuses: {_refusal(content)}", content)
    if found != theirs:
        names = sorted(n for n in found.keys() | theirs.keys() if found.get(n) != theirs.get(n))
        raise FuzzError(f"read otherwise than by the library: {names[:3]!r:.500}", content)
    return "accepted"


def run(
    rng: random.Random,
    go_on: Callable[[int], bool],
    *,
    corpus: Sequence[bytes] = (),
    most_seconds: float | None = None,
    most_bytes: int | None = None,
) -> Report:
    """Tries files while `go_on(number)`. Raises FuzzError for the first that is wrong.

    `most_seconds` and `most_bytes`: what one file may take, and by how much all of them may make the process grow.
    """
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        system = LocalFileSystem(Options())

        def read(content: bytes) -> dict[str, Entry]:
            path.write_bytes(content)
            began = time.perf_counter()
            try:
                with system.open(str(path)) as file:
                    return read_header(file)
            finally:
                report.slowest = max(report.slowest, time.perf_counter() - began)

        kept = list(corpus)
        before = _peak()
        number = 0
        while go_on(number):
            number += 1
            base = rng.choice(kept) if kept and rng.random() < 0.3 else healthy(rng)
            changed = rng.random() < 0.9
            other = rng.choice(kept) if kept and rng.random() < 0.5 else healthy(rng)
            content = mutated(base, rng, other) if changed else base
            with _alarm(most_seconds, content):
                result = check(content, read)
            report.counts[result] += 1
            # What was accepted, though changed, is a good start for further changes.
            if result == "accepted" and changed and len(content) < 4096 and len(kept) < 500:
                kept.append(content)
            if most_bytes is not None and _peak() - before > most_bytes:
                raise FuzzError(f"the process grew by {_peak() - before:,} bytes", content)
    return report


def corpus(folder: Path = HOSTILE) -> list[bytes]:
    """The files of a folder."""
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if a file was found that is handled wrongly."""
    parser = argparse.ArgumentParser(description="Fuzzes the safetensors parser.")
    parser.add_argument("--seconds", type=float, default=60, help="how long, by default 60")
    parser.add_argument("--seed", type=int, help="of the random generator, by default a new one")
    parser.add_argument(
        "--failures", type=Path, default=Path(tempfile.gettempdir()), help="where a file that fails is written"
    )  # fmt: skip
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    end = time.monotonic() + options.seconds
    try:
        report = run(
            random.Random(seed),
            lambda number: time.monotonic() < end,
            corpus=corpus(),
            most_seconds=10,
            most_bytes=1 << 30,
        )
    except FuzzError as failure:
        path = options.failures / f"fuzz-{seed}.safetensors"
        path.write_bytes(failure.content)
        print(f"seed {seed}: {failure}\n{len(failure.content)} bytes in {path}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{count:,} {what}" for what, count in report.counts.most_common())
    print(f"seed {seed}: {counts}; the slowest took {1000 * report.slowest:.1f} ms")
    return 0


def _name(rng: random.Random) -> str:
    alphabet = rng.choice(["abc.", "model.layers.0123456789weight", 'é"\\\n\0\x7f/日😀 '])
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 12)))


def _file(header: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Header and data, whatever the length says."""
    length = int.from_bytes(content[:8], "little")
    end = 8 + min(length, max(0, len(content) - 8))
    return content[8:end], content[end:]


def _json_mutation(content: bytes, rng: random.Random, other: bytes) -> bytes:
    header, data = _split(content)
    try:
        tree = json.loads(header)
    except (ValueError, RecursionError):
        return _text_mutation(content, rng, other)
    return _file(json.dumps(_changed(tree, rng)).encode("utf-8", "surrogatepass"), data)


def _changed(value: Any, rng: random.Random) -> Any:
    """One change somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        pairs: list[tuple[str, Any]] = list(value.items())
        at = rng.randrange(len(pairs))
        key, inner = pairs[at]
        how = rng.random()
        if how < 0.7:
            pairs[at] = (key, _changed(inner, rng))
        elif how < 0.8:
            del pairs[at]
        elif how < 0.9:
            other = rng.choice([key + "x", "__metadata__", _name(rng)])
            pairs.insert(rng.randint(0, len(pairs)), (other, inner))
        else:
            rng.shuffle(pairs)
        return dict(pairs)
    if isinstance(value, list) and rng.random() < 0.9:
        items = list(value)
        at = rng.randint(0, len(items))
        how = rng.random()
        if how < 0.4 and at < len(items):
            items[at] = _changed(items[at], rng)
        elif how < 0.6 and items:
            del items[at % len(items)]
        elif how < 0.9:
            items.insert(at, rng.choice([0, 1, 1, *_NUMBERS]))
        else:
            rng.shuffle(items)
        return items
    if type(value) is int and rng.random() < 0.6:
        return value + rng.choice([-8, -1, 1, 8])
    if isinstance(value, str) and rng.random() < 0.6:
        return rng.choice([*DTYPE_BITS, value.lower(), value + "\0", _name(rng)])
    return rng.choice([rng.choice(_NUMBERS), rng.choice(_VALUES), [value], {"": value}])


def _text_mutation(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """Tokens put into the header's text, or parts of it taken out or doubled; the length goes along."""
    header, data = _split(content)
    begin = rng.randint(0, len(header))
    end = min(len(header), begin + rng.choice([0, 0, 1, 1, 2, 5, 20]))
    piece = rng.choice(
        [rng.choice(_TOKENS), b"", header[begin:end] * 2, _split(other)[0][1:-1] + b","]
    )
    return _file(header[:begin] + piece + header[end:], data)


def _byte_mutation(content: bytes, rng: random.Random, other: bytes) -> bytes:
    raw = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if raw:
            raw[rng.randrange(len(raw))] = rng.choice(
                [rng.randrange(256), 0, 255, 0x20, 0x30, 0x22]
            )
    return bytes(raw)


def _length_mutation(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """The file, or what it says of its header, longer or shorter."""
    header, data = _split(content)
    how = rng.random()
    if how < 0.3:
        return content[: rng.randint(0, len(content))]
    if how < 0.5:
        return content + rng.randbytes(rng.choice([1, 8, 100]))
    if how < 0.7:
        return _file(header + b" " * rng.choice([1, 7, 8]), data)
    length = rng.choice([len(header) + rng.randint(-9, 9), 0, 2**63, 2**64 - 1, 10**8, 10**8 + 1])
    return _file(header, data, max(0, length))


_MUTATIONS = [_json_mutation] * 4 + [_text_mutation] * 3 + [_byte_mutation, _length_mutation]


def _library(content: bytes) -> dict[str, Any] | None:
    """What the safetensors library reads; None if it refuses the file."""
    try:
        tensors = _deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {name: (x["dtype"], list(x["shape"]), bytes(x["data"])) for name, x in tensors}


def _refusal(content: bytes) -> str:
    try:
        _deserialize(content)
    except safetensors.SafetensorError as error:
        return str(error)[:500]
    return ""


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def _alarm(seconds: float | None, content: bytes) -> Iterator[None]:
    """Ends what takes longer, if anything is said."""
    if seconds is None:
        yield
        return

    def late(number: int, frame: Any) -> None:
        raise FuzzError(f"took more than {seconds} s", content)

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main())
