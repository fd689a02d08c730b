"""The arguments of a call: from pytrees of Buffers to the arrays that a program takes, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from zml.buffer import Buffer
from zml.compile.program import Value
from zml.errors import BufferError, UnsupportedError
from zml.model_tree import is_leaf

_NO_ARGUMENTS = jax.tree.structure([])
"""Arguments are a tuple: none have this structure."""


class Arguments:
    """What some of the arguments of a program must be: the inputs that they are, and their pytree."""

    def __init__(
        self, program: str, device_name: str, inputs: Sequence[Value], tree: Any, refusal: str = ""
    ) -> None:
        self._program = program
        self._device_name = device_name
        self._inputs = inputs
        self._tree = tree
        self._refusal = ""
        if refusal:
            # Found where the arguments are looked at, so that a call of a program that can run does not ask.
            self._tree, self._refusal = _NO_ARGUMENTS, f"{program}: {refusal}"
        self._expected = [(value.shape, value.sharding) for value in inputs]

    def arrays(self, args: tuple[Any, ...]) -> list[jax.Array]:
        """The arrays of the arguments. Raises BufferError for what the program was not compiled for."""
        leaves, tree = jax.tree.flatten(args)
        if tree != self._tree:
            if self._refusal:
                raise UnsupportedError(self._refusal)
            raise self._wrong_structure(args)
        arrays = []
        for leaf, (shape, sharding) in zip(leaves, self._expected, strict=True):
            # A result that goes round has the very shape and sharding of the input: see Signature.shared.
            if type(leaf) is Buffer and (leaf.shape is shape or leaf.shape == shape):
                array = leaf._array
                if array.sharding is sharding and not array.is_deleted():
                    arrays.append(array)
                    continue
            arrays.append(self._checked(leaf, self._inputs[len(arrays)]))
        return arrays

    def _checked(self, leaf: Any, value: Value) -> jax.Array:
        """The array of one argument that may be in order all the same."""
        where = f"{self._program}: the argument {value.name} "
        if type(leaf) is not Buffer:
            raise BufferError(
                f"{where}is a {type(leaf).__name__}, expected a Buffer {value.shape}; put it on the platform: "
                "platform.put(value, tags)"
            )
        if leaf.donated:
            raise BufferError(
                f"{where}{leaf.shape} was donated to an earlier call, which reused its memory for a result; use that "
                "result, or compile without reuse_buffer"
            )
        if not leaf.shape.matches(value.shape) or leaf.dtype is not value.shape.dtype:
            raise BufferError(
                f"{where}is {leaf.shape}, but the program was compiled for {value.shape}; give it that, or compile "
                "for the other shape"
            )
        return self._placed(leaf, value, where)

    def _placed(self, buffer: Buffer, value: Value, where: str) -> jax.Array:
        """The buffer's array if each device has the part that the program expects there, whatever it is called."""
        array, expected, dims = buffer.array, value.sharding, value.shape.dims
        given = array.sharding
        if given.memory_kind == expected.memory_kind:
            if given == expected or given.is_equivalent_to(expected, len(dims)):
                return array
            # A sharding with the devices in another order may still mean the same: a whole copy on each, for one.
            if given.devices_indices_map(dims) == expected.devices_indices_map(dims):
                parts = {shard.device: shard.data for shard in array.addressable_shards}
                mine = [parts[d] for d in expected.mesh.devices.flat if d in parts]
                return jax.make_array_from_single_device_arrays(dims, expected, mine)
        where += f"{buffer.shape} "
        theirs: set[Any] = given.device_set
        if theirs != expected.device_set:
            names = " and ".join(sorted({str(device.client.platform) for device in theirs}))
            raise BufferError(
                f"{where}is on {len(theirs)} devices ({names}) of another platform or sharding, but the program "
                f"runs on {len(expected.device_set)} of {self._device_name}; put it on the platform that compiled the "
                "program, with its sharding"
            )
        if given.memory_kind != expected.memory_kind:
            raise BufferError(
                f"{where}is in {given.memory_kind} memory, but the program was compiled for {expected.memory_kind}; "
                f"put it there, or declare the argument in_memory({given.memory_kind!r})"
            )
        raise BufferError(
            f"{where}is cut as {getattr(given, 'spec', given)}, but the program was compiled for {expected.spec} over "
            f"{dict(expected.mesh.shape)}; put it with the partitioning {value.shape}, or compile for the other one"
        )

    def _wrong_structure(self, args: tuple[Any, ...]) -> BufferError:
        found, tree = jax.tree_util.tree_flatten_with_path(args, is_leaf=is_leaf)
        inputs = self._inputs
        if len(found) != len(inputs):
            names = ", ".join(x.name for x in inputs[:6]) + (", ..." if len(inputs) > 6 else "")
            return BufferError(
                f"{self._program}: given {len(args)} arguments with {len(found)} buffers, expected {len(inputs)}: "
                f"{names or 'none'}"
            )
        for (_, leaf), value in zip(found, inputs, strict=True):
            if tree == self._tree and type(leaf) is not Buffer:
                return BufferError(
                    f"{self._program}: the argument {value.name} is {leaf!r:.80}, expected a Buffer {value.shape}; "
                    "a program runs on values: inside of a function that is traced, call the function itself"
                )
        return BufferError(
            f"{self._program}: the arguments have the structure {tree}, but the program was compiled for {self._tree}"
        )
