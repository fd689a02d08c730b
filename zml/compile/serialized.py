"""Compiled programs as bytes: for the executable cache, and to be carried to another machine of the same kind.

A program is machine code, so whoever loads one trusts its source; its pytrees are pickled for that reason without fear.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zml.compile.exe import Exe
from zml.errors import CompileError
from zml.shape import Shape

_MAGIC = b"zml program 2\n"
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Packed:
    """All of an Exe that does not depend on this process."""

    name: str
    traits: Mapping[str, str]
    stablehlo: str
    input_tree: Any
    result_tree: Any
    inputs: tuple[PackedValue, ...]
    results: tuple[PackedValue, ...]
    mesh: tuple[tuple[str, int], ...]
    """The axes of the mesh that the values are cut over, slowest first."""
    devices: tuple[int, ...]
    """The ids of the devices in the mesh's order."""
    code: bytes


@dataclass(frozen=True)
class PackedValue:
    """A Value without its devices."""

    name: str
    shape: Shape
    spec: Any
    memory: str | None
    aliases: int | None


def pack(exe: Exe) -> bytes:
    """The bytes of a program: a mark, a digest, and the rest. Raises CompileError for one that calls Python back."""
    if exe.program.has_effects:
        raise CompileError(
            f"{exe.name} prints from inside (debug_print) and so belongs to this process; it cannot be serialized"
        )

    def values(some: Any) -> tuple[PackedValue, ...]:
        return tuple(
            PackedValue(v.name, v.shape, v.sharding.spec, v.memory, v.aliases) for v in some
        )

    signature, mesh = exe.signature, exe.mesh
    packed = Packed(
        exe.name,
        dict(exe.traits),
        exe.stablehlo,
        signature.input_tree,
        signature.result_tree,
        values(signature.inputs),
        values(signature.results),
        tuple(mesh.shape.items()),
        tuple(device.id for device in mesh.devices.flat),
        exe.program.serialize(),
    )
    try:
        body = pickle.dumps(packed)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CompileError(
            f"{exe.name} cannot be serialized: {error}; the classes of its arguments and results, and the values of "
            "their static fields, must be found by name in a module"
        ) from error
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpack(blob: bytes) -> Packed:
    """What `pack` was given. Raises CompileError for bytes that are no program, or are damaged."""
    head = len(_MAGIC) + _DIGEST
    if not blob.startswith(_MAGIC):
        raise CompileError(
            f"these {len(blob)} bytes are no serialized program of this version of zml: they begin with "
            f"{blob[:16]!r}, expected {_MAGIC!r}; make them again with Exe.serialize"
        )
    if hashlib.sha256(blob[head:]).digest() != blob[len(_MAGIC) : head]:
        raise CompileError(
            "the serialized program is damaged: its content does not fit its digest; make it again with Exe.serialize"
        )
    try:
        packed = pickle.loads(blob[head:])
    except Exception as error:
        raise CompileError(
            f"the serialized program has parts that are not here ({error}); import the modules of its models first"
        ) from error
    if not isinstance(packed, Packed):
        raise CompileError(f"the serialized program holds a {type(packed).__name__}; make it again")
    return packed
