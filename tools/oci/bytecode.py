"""Bytecode beside the modules of a layer.

An image's root cannot be written to: modules would be compiled at every start.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
import tarfile
import warnings

from tools.oci.archive import Layer, LayerError, content

_UNCHECKED_HASH = 1


def add(layer: Layer, version: str) -> None:
    """Adds what is missing of the bytecode for Python `version`; a template that is no Python is left alone."""
    ours = "{}.{}".format(*sys.version_info)
    if ours != version:
        raise LayerError(f"bytecode for Python {version} cannot be made by this Python {ours}")
    for path, entry in list(layer.entries.items()):
        if entry.kind != tarfile.REGTYPE or not path.endswith(".py"):
            continue
        target = cached(path)
        if target in layer.entries:
            continue
        with entry.open() as file:
            source = file.read()
        if (code := compiled(source, "/" + path)) is not None:
            layer.add(target, content(code, source="the bytecode of " + entry.source))


def cached(path: str) -> str:
    """Where the interpreter looks for the bytecode of a module."""
    above, _, name = path.rpartition("/")
    tag = sys.implementation.cache_tag
    return f"{above}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc".removeprefix("/")


def compiled(source: bytes, path: str) -> bytes | None:
    """A .pyc of the unchecked kind, which is used without looking at the source's time; None for what is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's code
            code = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little")
    return head + importlib.util.source_hash(source) + marshal.dumps(code)
