"""Writes one layer from a list of what goes into it.

A line of the list is an instruction, its words separated by tabs:

    deb FILE                  a Debian package
    file SOURCE PATH          a file; a folder with all that is in it
    text PATH MODE TEXT       a file of this text, with \\n for the ends of lines
    folder PATH MODE OWNER    a folder
    link PATH TARGET          a symbolic link
    only PATTERN              takes but these paths of files and folders (fnmatch; * is also /)
    exclude PATTERN           leaves out these paths, of packages too
    certificates PATH         one file of all certificates in the layer
    bytecode VERSION          .pyc files beside the modules
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from tools.oci import bytecode, compress, deb
from tools.oci.archive import Layer, LayerError, content, file, folder, link

_CERTIFICATES = "usr/share/ca-certificates/"


def build(lines: Sequence[str]) -> Layer:
    """The layer that the list describes."""
    layer = Layer()
    instructions = [line.split("\t") for line in lines if line]
    only, exclude = (
        [words[1] for words in instructions if words[0] == name] for name in ("only", "exclude")
    )
    for name, *words in instructions:
        match name, words:
            case "only" | "exclude", [_]:
                continue
            case "deb", [path]:
                deb.add(layer, Path(path), exclude)
            case "file", [source, path]:
                _add(layer, Path(source), path, only, exclude)
            case "text", [path, mode, text]:
                layer.add(
                    path,
                    content(text.replace("\\n", "\n").encode(), int(mode, 8), "the BUILD file"),
                )
            case "folder", [path, mode, owner]:
                layer.entries[path] = folder(int(mode, 8), int(owner), "the BUILD file")
            case "link", [path, target]:
                layer.add(path, link(target, "the BUILD file"))
            case "certificates", [path]:
                layer.add(path, content(_certificates(layer), source="all certificates"))
            case "bytecode", [version]:
                bytecode.add(layer, version)
            case _:
                raise LayerError(f"unknown instruction {name!r} with {len(words)} words: {words}")
    return layer


def _add(
    layer: Layer, source: Path, path: str, only: Sequence[str], exclude: Sequence[str]
) -> None:
    if source.is_dir():
        for child in sorted(source.iterdir()):
            _add(layer, child, f"{path}/{child.name}", only, exclude)
    elif (not only or _matches(path, only)) and not _matches(path, exclude):
        layer.add(path, file(source, 0o755 if _is_program(source, path) else 0o644))


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _is_program(source: Path, path: str) -> bool:
    """By place and content: the bits of a file's mode are not the same in every sandbox."""
    if path.split("/")[-2:-1] == ["bin"]:
        return True
    with source.open("rb") as content:
        return content.read(2) == b"#!"


def _certificates(layer: Layer) -> bytes:
    """What Debian's update-ca-certificates writes."""
    paths = sorted(p for p in layer.entries if p.startswith(_CERTIFICATES) and p.endswith(".crt"))
    if not paths:
        raise LayerError("no certificates: expected the package ca-certificates in this layer")
    parts = []
    for path in paths:
        with layer.entries[path].open() as source:
            parts.append(source.read().rstrip() + b"\n")
    return b"".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="layer")
    parser.add_argument("list", type=Path)
    parser.add_argument("output", type=Path, help="ends in .gz, or is not compressed")
    options = parser.parse_args(arguments)
    zipped = options.output.suffix == ".gz"
    if zipped and not compress.is_reference():
        print(
            f"layer: zlib {zlib.ZLIB_RUNTIME_VERSION} of this Python compresses otherwise than zlib itself: the "
            "image is a good one, but its digest differs from that of other machines",
            file=sys.stderr,
        )
    try:
        layer = build(options.list.read_text("utf-8").splitlines())
        with options.output.open("wb") as out:
            layer.write(out, zipped)
    except LayerError as error:
        print(f"layer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
