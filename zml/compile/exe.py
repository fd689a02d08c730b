"""Exe: a compiled program to call. Runner: the same with its leading arguments, the weights, already in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from zml.buffer import Buffer
from zml.compile.arguments import Arguments
from zml.compile.program import Signature, Value
from zml.errors import BufferError
from zml.pjrt.executable import Error, MemoryPlan, Program


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
    traits: Mapping[str, str]
    """The platform and versions that it runs on, by name."""
    mesh: Mesh
    """The devices that it runs on, and the axes that values are cut over."""
    cached: bool
    """Whether it came out of the executable cache, or out of `serialize`."""
    seconds: float
    """What tracing, lowering and compiling, or reading it back, took."""
    program: Program
    """The runtime's own object."""

    def __init__(
        self,
        name: str,
        device_name: str,
        signature: Signature,
        program: Program,
        stablehlo: str,
        traits: Mapping[str, str],
        mesh: Mesh,
        *,
        cached: bool,
        seconds: float,
    ) -> None:
        self.name = name
        self.device_name = device_name
        self.signature = signature
        self.stablehlo = stablehlo
        self.traits = traits
        self.mesh = mesh
        self.cached = cached
        self.seconds = seconds
        self.program = program
        self._arguments = self.arguments(signature.inputs, signature.input_tree)
        self._result_shapes = [result.shape for result in signature.results]
        self._unflatten = signature.result_tree.unflatten

    def arguments(self, inputs: Sequence[Value], tree: Any) -> Arguments:
        """What those of its arguments must be that are these inputs."""
        return Arguments(self.name, self.device_name, inputs, tree, self.program.refusal)

    def __call__(self, *args: Any) -> Any:
        """Runs the program. Raises BufferError for arguments it was not compiled for, and for donated ones."""
        return self.run(self._arguments.arrays(args))

    def run(self, arrays: list[jax.Array]) -> Any:
        """Runs the program on all its arrays, which Arguments has checked."""
        try:
            outputs = self.program.run(arrays)
        except Error as error:
            self._check_donations(arrays, error)
            raise
        return self._unflatten(map(Buffer, outputs, self._result_shapes))

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

    def __repr__(self) -> str:
        source = "from the cache" if self.cached else "compiled"
        return (
            f"Exe({self.name}: {len(self.signature.inputs)} inputs, {len(self.signature.results)} results, "
            f"{source} in {self.seconds:.3f}s)"
        )


class Runner:
    """An Exe with its leading arguments bound; made by `Exe.bake`."""

    __slots__ = ("_arguments", "_baked", "exe")

    def __init__(self, exe: Exe, leading: Sequence[Any]) -> None:
        children = exe.signature.input_tree.children()
        if len(leading) > len(children):
            raise BufferError(
                f"{exe.name}: {len(leading)} arguments are baked, but it takes {len(children)}"
            )
        first: Any
        rest: Any
        first, rest = (
            jax.tree_util.treedef_tuple(some)
            for some in (children[: len(leading)], children[len(leading) :])
        )
        inputs, count = exe.signature.inputs, first.num_leaves
        for result in exe.signature.results:
            if result.aliases is not None and result.aliases < count:
                raise BufferError(
                    f"{exe.name}: {inputs[result.aliases].name} is donated in every call and cannot be baked; "
                    "bake the arguments before it alone"
                )
        self.exe = exe
        self._baked = exe.arguments(inputs[:count], first).arrays(tuple(leading))
        self._arguments = exe.arguments(inputs[count:], rest)

    def __call__(self, *args: Any) -> Any:
        """Runs the program with the other arguments."""
        return self.exe.run(self._baked + self._arguments.arrays(args))

    def __repr__(self) -> str:
        return f"Runner({self.exe!r}, {len(self._baked)} inputs baked)"
