"""The inputs and results of a program: what they are called, their shapes, and where they live."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import NamedSharding

from zml.buffer import Buffer
from zml.errors import CompileError
from zml.model_tree import is_leaf, path_name
from zml.ops.memory import Marks, marks
from zml.shape import Shape
from zml.sharding import Sharding, select
from zml.tensor import Tensor


@dataclass(frozen=True)
class Value:
    """An input or a result of a program."""

    name: str
    """Where it is among the arguments, `weights.layers[0].q.weight`, or among the results."""
    shape: Shape
    sharding: NamedSharding
    memory: str | None
    """The kind of memory it was put into on purpose; None: the device's own."""
    aliases: int | None = None
    """For a result: the number of the input whose memory it takes."""

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """The same for JAX."""
        return jax.ShapeDtypeStruct(self.shape.dims, self.shape.dtype.numpy, sharding=self.sharding)

    @property
    def shard_bytes(self) -> int:
        """Bytes on each device."""
        dims = self.sharding.shard_shape(self.shape.dims)
        return Shape(dict(zip(self.shape.tags, dims, strict=True)), self.shape.dtype).byte_size


@dataclass(frozen=True)
class Signature:
    """All inputs and results, and the pytrees that they are the leaves of."""

    inputs: tuple[Value, ...]
    input_tree: Any
    results: tuple[Value, ...]
    result_tree: Any

    def shared(self) -> Signature:
        """The same, in which shapes and shardings that are equal are one object: calls compare them by identity."""
        known: dict[Any, Any] = {}

        def share(value: Value) -> Value:
            shape = known.setdefault(value.shape, value.shape)
            return replace(
                value, shape=shape, sharding=known.setdefault(value.sharding, value.sharding)
            )

        inputs, results = tuple(map(share, self.inputs)), tuple(map(share, self.results))
        return Signature(inputs, self.input_tree, results, self.result_tree)


@dataclass(frozen=True)
class Abstract:
    """An input before it has a place: what an abstract argument says."""

    name: str
    shape: Shape
    memory: str | None

    def placed(self, shardings: Sequence[Sharding]) -> Value:
        """Where it lives under the first sharding that covers it."""
        sharding = select(shardings, self.shape).named(self.shape, self.memory)
        return Value(self.name, self.shape, sharding, self.memory)


def inputs_of(fn: Callable[..., Any], args: Sequence[Any]) -> tuple[tuple[Abstract, ...], Any]:
    """The inputs that abstract arguments describe, Tensors, Shapes and Buffers in pytrees, and their pytree."""
    found, tree = jax.tree_util.tree_flatten_with_path(tuple(args), is_leaf=is_leaf)
    _check_statics(fn, tree)
    names = argument_names(fn, len(args))
    inputs = []
    for path, leaf in found:
        name = names[path[0].idx] + jax.tree_util.keystr(path[1:])
        inputs.append(Abstract(name, *_abstract(fn, name, leaf)))
    return tuple(inputs), tree


def _check_statics(fn: Callable[..., Any], tree: Any) -> None:
    """Calls compare their arguments' static fields with those compiled for, which must not change in between."""
    data = tree.node_data()
    try:
        if data is not None and dataclasses.is_dataclass(data[0]):
            hash(data[1])
    except (TypeError, ValueError) as error:
        raise CompileError(
            f"compile {function_name(fn)}: an argument has a static field whose value is not hashable ({error}): "
            "programs are compiled for it, so it must not change; take a tuple for a list, plain numbers for an array"
        ) from error
    for child in tree.children():
        _check_statics(fn, child)


def _abstract(fn: Callable[..., Any], name: str, leaf: Any) -> tuple[Shape, str | None]:
    if isinstance(leaf, Shape):
        return leaf, None
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.memory
    if isinstance(leaf, Buffer):
        return leaf.shape, None if leaf.memory == "device" else leaf.memory
    raise CompileError(
        f"compile {function_name(fn)}: the argument {name} is a {type(leaf).__name__} ({leaf!r:.80}), expected a "
        "Tensor, a Shape or a Buffer; bind plain values with functools.partial, or make the field zml.static()"
    )


def argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    """The names of a function's positional parameters, for messages."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return [names[i] if i < len(names) else f"{rest}[{i - len(names)}]" for i in range(count)]


def function_name(fn: Callable[..., Any]) -> str:
    """What a program is called: the function's name, through functools.partial."""
    inner = getattr(fn, "func", fn)
    return str(getattr(inner, "__qualname__", type(inner).__name__)).replace(".<locals>", "")


class Tracer:
    """Runs a function once on tracers, as JAX asks for it, and keeps what came out."""

    def __init__(
        self,
        name: str,
        fn: Callable[..., Any],
        inputs: Sequence[Value],
        input_tree: Any,
        shardings: Sequence[Sharding],
        kernels: bool = False,
    ) -> None:
        self._name = name
        self._fn = fn
        self._inputs = inputs
        self._input_tree = input_tree
        self._shardings = shardings
        self._kernels = kernels
        self.signature: Signature

    def __call__(self, *values: Any) -> list[Any]:
        """The function, from arrays to arrays."""
        tensors = [
            Tensor.declare(value.shape).with_value(array)
            for value, array in zip(self._inputs, values, strict=True)
        ]
        numbers = {id(array): number for number, array in enumerate(values)}
        scope = Marks(
            numbers, constrain=self._constrain, sharding=self._sharding, kernels=self._kernels
        )
        token = marks.set(scope)
        try:
            result = self._fn(*jax.tree.unflatten(self._input_tree, tensors))
        finally:
            marks.reset(token)
        found, tree = jax.tree_util.tree_flatten_with_path(result, is_leaf=is_leaf)
        results = [self._result(scope, path, leaf) for path, leaf in found]
        self._check_aliases(scope, results)
        self.signature = Signature(tuple(self._inputs), self._input_tree, tuple(results), tree)
        return [leaf.value for _, leaf in found]

    def _constrain(self, shape: Shape) -> NamedSharding | None:
        sharding = self._sharding(shape)
        return None if sharding is None else sharding.constraint(shape)

    def _sharding(self, shape: Shape) -> Sharding | None:
        sharding = select(self._shardings, shape)
        return sharding if len(sharding.physical.devices) > 1 else None

    def _result(self, scope: Marks, path: Any, leaf: Any) -> Value:
        name = "result" + ("" if not path else "." if path_name(path)[0] != "[" else "")
        name += path_name(path)
        if not isinstance(leaf, Tensor):
            raise CompileError(
                f"compile {self._name}: the {name} is a {type(leaf).__name__}, expected a Tensor; name its axes: "
                "zml.Tensor(array, tags)"
            )
        shape, memory = leaf.shape, self._memory(scope, leaf.value)
        sharding = select(self._shardings, shape).named(shape, memory)
        # Only the first of two results that are the same value can have the memory.
        return Value(name, shape, sharding, memory, scope.reused.pop(id(leaf.value), None))

    def _memory(self, scope: Marks, value: Any) -> str | None:
        """Where a result is: where it was put last, else where it came from as an argument."""
        if (kind := scope.memories.get(id(value))) is not None:
            return kind
        if (number := scope.arguments.get(id(value))) is not None:
            return self._inputs[number].memory
        # Put there within a function that is called, or given on by an operation that keeps the memory.
        on_host = jax.typeof(value).memory_space is jax.memory.Space.Host
        return "pinned_host" if on_host else None

    def _check_aliases(self, scope: Marks, results: Sequence[Value]) -> None:
        if scope.reused:
            lost = ", ".join(self._inputs[number].name for number in scope.reused.values())
            raise CompileError(
                f"compile {self._name}: the tensor that was to reuse the buffer of {lost} is no result; "
                "call reuse_buffer last and return what it gives"
            )
        taken: dict[int, Value] = {}
        for result in results:
            if result.aliases is None:
                continue
            source = self._inputs[result.aliases]
            if other := taken.get(result.aliases):
                raise CompileError(
                    f"compile {self._name}: {other.name} and {result.name} both reuse the buffer of {source.name}"
                )
            taken[result.aliases] = result
            if result.sharding != source.sharding:
                raise CompileError(
                    f"compile {self._name}: {result.name} {result.shape} cannot reuse the buffer of {source.name} "
                    f"{source.shape}: they are cut or kept differently ({result.sharding.spec}, "
                    f"{result.sharding.memory_kind} and {source.sharding.spec}, {source.sharding.memory_kind}); "
                    "give the result the partitioning of the argument with partitioned()"
                )
