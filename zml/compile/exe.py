"""Exe: a compiled program to call. Runner: the same with its leading arguments, the weights, already in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from zml.buffer import Buffer
from zml.compile.program import Signature, Value
from zml.errors import BufferError
from zml.model_tree import is_leaf
from zml.pjrt.executable import Error, LoadedProgram, MemoryPlan


class Exe:
    """A compiled program of a platform.

    Call it with pytrees of Buffers as it was compiled for; it gives the function's result with Buffers for Tensors. A
    call returns at once; `Buffer.numpy` and `Buffer.wait` wait for values.
    """

    name: str
    device_name: str
    """What it runs on, for messages: `2 x cpu`."""
    signature: Signature
    """Its `inputs` and `results`, each with a name, a shape and a place, and their pytrees."""
    stablehlo: str
    """The program before XLA's passes, after those of CompileOptions."""
    fingerprint: str
    """The platform and versions that it runs on."""
    mesh: Mesh
    """The devices that it runs on, and the axes that values are cut over."""
    cached: bool
    """Whether it came out of the executable cache, or out of `serialize`."""
    seconds: float
    """What tracing, lowering and compiling, or reading it back, took."""
    program: LoadedProgram
    """The runtime's own object."""

    def __init__(
        self,
        name: str,
        device_name: str,
        signature: Signature,
        program: LoadedProgram,
        stablehlo: str,
        fingerprint: str,
        mesh: Mesh,
        *,
        cached: bool,
        seconds: float,
    ) -> None:
        self.name = name
        self.device_name = device_name
        self.signature = signature
        self.stablehlo = stablehlo
        self.fingerprint = fingerprint
        self.mesh = mesh
        self.cached = cached
        self.seconds = seconds
        self.program = program
        self._result_shapes = [result.shape for result in signature.results]
        self._unflatten = signature.result_tree.unflatten

    def __call__(self, *args: Any) -> Any:
        """Runs the program. Raises BufferError for arguments it was not compiled for, and for donated ones."""
        arrays = self._arrays(args, self.signature.input_tree, self.signature.inputs)
        return self._unflatten(map(Buffer, self._run(arrays), self._result_shapes))

    def _run(self, arrays: list[jax.Array]) -> list[jax.Array]:
        try:
            return self.program.run(arrays)
        except Error as error:
            self._check_donations(arrays, error)
            raise

    def bake(self, *leading: Any) -> Runner:
        """The program with its first arguments bound: they are checked once, not in every call."""
        return Runner(self, leading)

    @cached_property
    def memory(self) -> MemoryPlan:
        """What a call takes on each device."""
        return self.program.memory_plan()

    @property
    def cost(self) -> dict[str, float]:
        """The compiler's estimates for one device, such as `flops` and `bytes accessed`."""
        return self.program.cost()

    @property
    def hlo(self) -> str:
        """The program as XLA optimized and partitioned it."""
        return self.program.hlo()

    def serialize(self) -> bytes:
        """The program for `Platform.deserialize`, on a platform of the same devices and versions."""
        from zml.compile.serialized import pack

        return pack(self)

    def _arrays(
        self, args: Sequence[Any], expected: Any, inputs: Sequence[Value]
    ) -> list[jax.Array]:
        """The arrays of arguments, checked against inputs and the pytree that they are the leaves of."""
        leaves, tree = jax.tree.flatten(tuple(args))
        if tree != expected:
            raise self._wrong_structure(args, expected, inputs)
        arrays = []
        for leaf, value in zip(leaves, inputs, strict=True):
            if type(leaf) is not Buffer:
                raise BufferError(
                    f"{self.name}: the argument {value.name} is a {type(leaf).__name__}, expected a Buffer "
                    f"{value.shape}; put it on the platform: platform.put(value, tags)"
                )
            try:
                array = leaf.array
            except BufferError:
                raise BufferError(
                    f"{self.name}: the argument {value.name} {leaf.shape} was donated to an earlier call, which reused "
                    "its memory for a result; use that result, or compile without reuse_buffer"
                ) from None
            shape = leaf.shape
            # A result that goes round has the very shape and sharding of the input: see Signature.shared.
            if shape is not value.shape and (
                not shape.matches(value.shape) or shape.dtype is not value.shape.dtype
            ):
                raise BufferError(
                    f"{self.name}: the argument {value.name} is {shape}, but the program was compiled for "
                    f"{value.shape}; give it that, or compile for the other shape"
                )
            if array.sharding is not value.sharding and array.sharding != value.sharding:
                array = self._placed(leaf, value)
            arrays.append(array)
        return arrays

    def _check_donations(self, arrays: list[jax.Array], error: Error) -> None:
        """Raises BufferError if that is why the runtime refused a call. Looked at afterwards: calls are not slowed."""
        signature = self.signature
        donated = {r.aliases for r in signature.results if r.aliases is not None}
        for number in donated:
            same = [i for i, array in enumerate(arrays) if array is arrays[number] and i != number]
            if same:
                names = f"{signature.inputs[number].name} and {signature.inputs[same[0]].name}"
                raise BufferError(
                    f"{self.name}: the arguments {names} are one buffer, and the first is donated: a result takes its "
                    "memory; give another buffer, or compile without reuse_buffer"
                ) from error
        for array, value in zip(arrays, signature.inputs, strict=True):
            if array.is_deleted():
                raise BufferError(
                    f"{self.name}: the argument {value.name} {value.shape} was donated to another call, of this or of "
                    "another program, which reused its memory for a result; use that result, or compile without "
                    "reuse_buffer"
                ) from error

    def _placed(self, buffer: Buffer, value: Value) -> jax.Array:
        """The buffer's array if each device has the part that the program expects there, whatever it is called."""
        given, dims = buffer.array.sharding, value.shape.dims
        if given.memory_kind == value.sharding.memory_kind:
            if given.is_equivalent_to(value.sharding, len(dims)):
                return buffer.array
            # A sharding with the devices in another order may still mean the same: a whole copy on each, for one.
            if given.devices_indices_map(dims) == value.sharding.devices_indices_map(dims):
                parts = {shard.device: shard.data for shard in buffer.array.addressable_shards}
                mine = [parts[d] for d in value.sharding.mesh.devices.flat if d in parts]
                return jax.make_array_from_single_device_arrays(dims, value.sharding, mine)
        where = f"{self.name}: the argument {value.name} {buffer.shape} "
        theirs: set[Any] = given.device_set
        if theirs != value.sharding.device_set:
            names = " and ".join(sorted({str(device.client.platform) for device in theirs}))
            raise BufferError(
                f"{where}is on {len(theirs)} devices ({names}) of another platform or sharding, but the program "
                f"runs on {len(value.sharding.device_set)} of {self.device_name}; put it on the platform that "
                "compiled the program, with its sharding"
            )
        if given.memory_kind != value.sharding.memory_kind:
            raise BufferError(
                f"{where}is in {given.memory_kind} memory, but the program was compiled for "
                f"{value.sharding.memory_kind}; put it there, or declare the argument in_memory({given.memory_kind!r})"
            )
        raise BufferError(
            f"{where}is cut as {getattr(given, 'spec', given)}, but the program was compiled for "
            f"{value.sharding.spec} over {dict(value.sharding.mesh.shape)}; put it with the partitioning "
            f"{value.shape}, or compile for the other one"
        )

    def _wrong_structure(
        self, args: Sequence[Any], expected: Any, inputs: Sequence[Value]
    ) -> BufferError:
        count = len(jax.tree.leaves(tuple(args), is_leaf=is_leaf))
        if count == len(inputs):
            found, tree = jax.tree_util.tree_flatten_with_path(tuple(args), is_leaf=is_leaf)
            for (_, leaf), value in zip(found, inputs, strict=True):
                if tree == expected and type(leaf) is not Buffer:
                    return BufferError(
                        f"{self.name}: the argument {value.name} is {leaf!r:.80}, expected a Buffer {value.shape}; "
                        "a program runs on values: inside of a function that is traced, call the function itself"
                    )
            return BufferError(
                f"{self.name}: the arguments have the structure {tree}, but the program was compiled for {expected}"
            )
        names = ", ".join(value.name for value in inputs[:6]) + (", ..." if len(inputs) > 6 else "")
        return BufferError(
            f"{self.name}: given {len(args)} arguments with {count} buffers, expected {len(inputs)}: {names or 'none'}"
        )

    def __repr__(self) -> str:
        source = "from the cache" if self.cached else "compiled"
        return (
            f"Exe({self.name}: {len(self.signature.inputs)} inputs, {len(self.signature.results)} results, "
            f"{source} in {self.seconds:.3f}s)"
        )


class Runner:
    """An Exe with its leading arguments bound; made by `Exe.bake`."""

    __slots__ = ("_baked", "_inputs", "_result_shapes", "_run", "_tree", "_unflatten", "exe")

    def __init__(self, exe: Exe, leading: Sequence[Any]) -> None:
        children = exe.signature.input_tree.children()
        if len(leading) > len(children):
            raise BufferError(
                f"{exe.name}: {len(leading)} arguments are baked, but it takes {len(children)}"
            )
        bound: Any = jax.tree_util.treedef_tuple(children[: len(leading)])
        inputs, count = exe.signature.inputs, bound.num_leaves
        for result in exe.signature.results:
            if result.aliases is not None and result.aliases < count:
                raise BufferError(
                    f"{exe.name}: {inputs[result.aliases].name} is donated in every call and cannot be baked; "
                    "bake the arguments before it alone"
                )
        self.exe = exe
        self._baked = exe._arrays(leading, bound, inputs[:count])
        self._inputs = inputs[count:]
        self._tree = jax.tree_util.treedef_tuple(children[len(leading) :])
        self._run = exe._run
        self._result_shapes = [result.shape for result in exe.signature.results]
        self._unflatten = exe.signature.result_tree.unflatten

    def __call__(self, *args: Any) -> Any:
        """Runs the program with the other arguments."""
        arrays = self._baked + self.exe._arrays(args, self._tree, self._inputs)
        return self._unflatten(map(Buffer, self._run(arrays), self._result_shapes))

    def __repr__(self) -> str:
        return f"Runner({self.exe!r}, {len(self._baked)} inputs baked)"
