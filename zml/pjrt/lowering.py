"""From a function of arrays to a StableHLO module, by JAX's own tracing and lowering."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AbstractMesh, Mesh, use_abstract_mesh
from jaxlib.mlir import ir
from jaxlib.mlir.passmanager import PassManager

from zml.pjrt import partitioner


@dataclass(frozen=True)
class Module:
    """A StableHLO module, and the Python callbacks that it makes (debug prints)."""

    ir: Any
    """A jaxlib.mlir ir.Module. Passes change it in place."""
    callbacks: Sequence[Any]
    kept_alive: Any
    """What the callbacks need for as long as the program lives."""
    has_effects: bool
    """Whether it calls Python back."""

    def text(self, *, locations: bool = False) -> str:
        """StableHLO as text; with the source location of each operation if asked for."""
        return str(self.ir.operation.get_asm(enable_debug_info=locations))

    def bytecode(self) -> bytes:
        """The module in MLIR's binary form, with its source locations: for another process of this version."""
        file = io.BytesIO()
        self.ir.operation.write_bytecode(file)
        return file.getvalue()

    def run_pipeline(self, pipeline: str) -> None:
        """Runs an MLIR pass pipeline, such as `builtin.module(canonicalize,cse)`. Raises ValueError for a wrong one."""
        with self.ir.context:
            PassManager.parse(pipeline).run(self.ir.operation)

    def verify(self) -> None:
        """Raises an MLIRError if the module is no longer in order."""
        self.ir.operation.verify()

    def interface(self) -> str:
        """The types of the program's arguments and results, and how many devices it is for."""
        main = self._main()
        parts = self.ir.operation.attributes.get("mhlo.num_partitions")
        return "no main function" if main is None else f"{main.type} on {parts}"

    def _main(self) -> Any:
        named = (op for op in self.ir.body.operations if op.attributes["sym_name"].value == "main")
        return next(named, None)

    def alias(self, results: Mapping[int, int]) -> None:
        """Makes results take the memory of arguments: {number of the argument: number of the result}."""
        main = self._main()
        with self.ir.context:
            attributes = list(main.arg_attrs)
            for argument, result in results.items():
                number = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), result)
                named: Any = ir.DictAttr(attributes[argument])
                own = {x.name: x.attr for x in named}
                attributes[argument] = ir.DictAttr.get(own | {"tf.aliasing_output": number})
            main.arg_attrs = ir.ArrayAttr.get(attributes)

    def frames(self, message: str) -> list[tuple[str, int]]:
        """(file, line) of the calls, innermost first, behind the first operation that a compiler's message names."""
        words = [word for word in dict.fromkeys(_WORD.findall(message)) if len(word) > 2]
        text = self.text()
        # What a call goes to stands in quotes or behind an @; an operation's own name follows its dialect.
        for symbol in (
            (f'"{w}"' for w in words),
            (f"@{w}(" for w in words),
            (f".{w} " for w in words),
        ):
            for mark in symbol:
                if mark in text and (found := self._behind(mark)):
                    return found
        return []

    def _behind(self, mark: str) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []

        def visit(op: Any) -> Any:
            if op.name in ("func.func", "builtin.module") or mark not in str(op):
                return ir.WalkResult.ADVANCE
            found.extend((file, int(line)) for file, line in _FRAME.findall(str(op.location)))
            return ir.WalkResult.INTERRUPT if found else ir.WalkResult.ADVANCE

        self.ir.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
        return found


_WORD = re.compile(r"[\w.$]+")
_FRAME = re.compile(r'"([^"]+)":(\d+)')
_ORDERED = "the function has ordered side effects, such as jax.debug.print(ordered=True); use zml.ops.debug_print"


def _target(*structs: Sequence[Any]) -> AbstractContextManager[Any]:
    """Tells Pallas which hardware it lowers kernels for: else it takes jax's default device, which this is not."""
    shardings = (x.sharding if hasattr(x, "sharding") else x for xs in structs for x in xs)
    device = next((d for s in shardings if s is not None for d in s.device_set), None)
    if device is None or device.platform == "cpu":
        return nullcontext()
    one = Mesh(np.array([device]), ("device",)).abstract_mesh
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=one.abstract_device))


def trace(flat: Callable[..., list[Any]], inputs: Sequence[jax.ShapeDtypeStruct]) -> Any:
    """The jaxpr of a function of arrays that gives a list of arrays."""
    with _target(inputs):
        return jax.make_jaxpr(flat)(*inputs)


def lower(
    name: str,
    jaxpr: Any,
    inputs: Sequence[jax.ShapeDtypeStruct],
    outputs: Sequence[Any],
    *,
    shardy: bool,
) -> Module:
    """Lowers a jaxpr whose inputs have the shardings of those structs and whose outputs have the shardings given."""
    flat = jaxpr_as_fun(jaxpr)

    def function(*values: Any) -> list[Any]:
        return flat(*values)

    function.__name__ = name
    with partitioner.shardy(shardy), _target(inputs, outputs):
        jitted = jax.jit(function, keep_unused=True, out_shardings=list(outputs))
        try:
            lowered = jitted.lower(*inputs)
        except ValueError as error:  # for several devices
            if "ordered effects" not in str(error):
                raise
            raise NotImplementedError(_ORDERED) from error
    arguments = lowered._lowering.compile_args
    if arguments["ordered_effects"]:
        raise NotImplementedError(_ORDERED)
    return Module(
        lowered.compiler_ir("stablehlo"),
        arguments["host_callbacks"],
        arguments["keepalive"],
        bool(arguments["unordered_effects"]) or bool(arguments["host_callbacks"]),
    )
