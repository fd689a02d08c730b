"""From a function of tensors to an Exe: trace, lower, passes, then the executable cache or the compiler."""

from __future__ import annotations

import hashlib
import linecache
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

import zml
from zml import log
from zml.compile import program
from zml.compile.cache import ExecutableCache
from zml.compile.exe import Exe
from zml.compile.options import CompileOptions
from zml.compile.program import Abstract, Signature, Tracer, Value, function_name, inputs_of
from zml.compile.serialized import Packed, PackedValue, unpack
from zml.errors import CompileError
from zml.pjrt import executable, lowering
from zml.pjrt.client import Client
from zml.sharding import Partitioner, Sharding, check_together, select

_LOG = log.get("compile")
_ZML = Path(zml.__file__).parent


class Runtime(Protocol):
    """What compiling needs of a Platform."""

    @property
    def client(self) -> Client:
        """The PJRT client."""

    @property
    def cache(self) -> ExecutableCache | None:
        """Where compiled programs are kept."""

    @property
    def has_kernels(self) -> bool:
        """Whether there are native kernels that programs may call."""

    @property
    def device_name(self) -> str:
        """`2 x cpu`."""

    @property
    def shardings(self) -> tuple[Sharding, ...]:
        """Those registered."""

    @property
    def replicated(self) -> Sharding:
        """The one that is used where none is registered."""

    def check_sharding(self, sharding: Sharding) -> None:
        """Raises ShardingError for one of another platform."""


def compile_function(
    runtime: Runtime,
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    shardings: Sequence[Sharding] | None = None,
    options: CompileOptions | None = None,
    name: str | None = None,
) -> Exe:
    """What `Platform.compile` does and raises; it says which."""
    began = time.perf_counter()
    options = options or CompileOptions()
    name = name or function_name(fn)
    flags = {**runtime.client.xla_flags, **_checked_flags(name, options)}
    abstract, tree = inputs_of(fn, args)
    among = _shardings(runtime, shardings, abstract)
    inputs = tuple(value.placed(among) for value in abstract)
    tracer = Tracer(name, fn, inputs, tree, among, runtime.has_kernels)
    module, signature = _lower(name, tracer, inputs, options)
    _run_passes(name, module, options)
    stablehlo, mesh = module.text(), among[0].mesh
    traits = _traits(runtime.client)

    def made(loaded: executable.Program, cached: bool) -> Exe:
        seconds = time.perf_counter() - began
        what = "Loaded from the cache:" if cached else "Compiled"
        _LOG.info("%s %s [%.3fs]", what, name, seconds)
        return Exe(
            name, runtime.device_name, signature, loaded, stablehlo, traits, mesh, cached=cached, seconds=seconds
        )  # fmt: skip

    cache = runtime.cache if options.use_cache and not module.has_effects else None
    key = ""
    if cache is not None:
        # XLA reads further flags from the environment.
        key = _key(stablehlo, repr(sorted(traits.items())), repr(options.partitioner), repr(sorted(flags.items())),
                   repr([d.id for d in mesh.devices.flat]), os.environ.get("XLA_FLAGS", ""))  # fmt: skip
        found = _cached(cache, key, runtime, mesh, signature)
        if found is not None:
            return made(found, cached=True)
    try:
        compiled = runtime.client.compile(
            module,
            list(mesh.devices.flat),
            [value.struct for value in signature.results],
            shardy=options.partitioner is Partitioner.SHARDY,
            flags=flags,
        )
    except (executable.Error, ValueError, CompileError) as error:
        raise CompileError(_explain(name, runtime, module, str(error))) from error
    exe = made(compiled, cached=False)
    if cache is not None:
        try:
            # The code alone: the rest is here again when the key is, and a model's class need not be picklable.
            cache.put(key, compiled.kept())
        except executable.Error as error:
            _LOG.debug("%s is not kept: this runtime does not serialize it: %s", name, error)
    return exe


def _lower(
    name: str, tracer: Tracer, inputs: Sequence[Value], options: CompileOptions
) -> tuple[lowering.Module, Signature]:
    """Traces and lowers; the module's results have their places, and the memory of arguments where they reuse it."""
    structs = [value.struct for value in inputs]
    try:
        jaxpr = lowering.trace(tracer, structs)
        signature = tracer.signature.shared()
        module = lowering.lower(
            _identifier(name),
            jaxpr,
            structs,
            [value.sharding for value in signature.results],
            shardy=options.partitioner is Partitioner.SHARDY,
        )
    except NotImplementedError as error:
        raise CompileError(f"lowering {name}: {error}") from error
    except ValueError as error:
        if "memory_space" not in str(error):
            raise
        raise CompileError(
            f"tracing {name}: {error}; move what is in host memory first: x.in_memory('device')"
        ) from error
    aliases = {r.aliases: i for i, r in enumerate(signature.results) if r.aliases is not None}
    if aliases:
        module.alias(aliases)
    return module, signature


def _traits(client: Client) -> dict[str, str]:
    """All that a compiled program depends on beside itself and its options, by name."""
    return {**client.traits, "jax": jax.__version__}


def _shardings(
    runtime: Runtime, given: Sequence[Sharding] | None, inputs: Sequence[Abstract]
) -> tuple[Sharding, ...]:
    """The shardings of a program, which must agree on the order of the devices.

    If none are given, those of the registered ones that its inputs need, and all others that go together with them.
    """
    if given:
        for sharding in given:
            runtime.check_sharding(sharding)
        check_together(given)
        return tuple(given)
    registered = runtime.shardings or (runtime.replicated,)
    cut = [x.shape for x in inputs if any(isinstance(p, str) for p in x.shape.partitions)]
    needed = tuple(dict.fromkeys(select(registered, shape) for shape in cut)) or registered[:1]
    check_together(needed)
    others = [s for s in registered if s not in needed and s.devices == needed[0].devices]
    return (*needed, *others)


def deserialize(runtime: Runtime, blob: bytes) -> Exe:
    """A program back from `Exe.serialize`. Raises CompileError for one of another platform or version."""
    began = time.perf_counter()
    packed = unpack(blob)
    _check_traits(f"the program {packed.name}", packed.traits, runtime)
    by_id = {device.id: device for device in runtime.client.devices}
    if missing := [i for i in packed.devices if i not in by_id]:
        raise CompileError(
            f"the program {packed.name} runs on devices {list(packed.devices)}, of which {runtime.device_name} lacks "
            f"{missing}; compile it for this platform"
        )
    mesh = _mesh(packed, by_id)
    signature = Signature(
        tuple(_value(v, mesh) for v in packed.inputs),
        packed.input_tree,
        tuple(_value(v, mesh) for v in packed.results),
        packed.result_tree,
    ).shared()
    try:
        loaded = runtime.client.load(
            packed.code,
            list(mesh.devices.flat),
            [value.struct for value in signature.results],
        )
    except (executable.Error, ValueError) as error:
        raise CompileError(f"the program {packed.name} cannot be loaded: {error}") from error
    seconds = time.perf_counter() - began
    return Exe(
        packed.name, runtime.device_name, signature, loaded, packed.stablehlo, packed.traits, mesh,
        cached=True, seconds=seconds,
    )  # fmt: skip


def differences(traits: Mapping[str, str], client: Client) -> list[str]:
    """What a client lacks of these traits, for people."""
    mine = _traits(client)
    return [
        f"{name}: {value}, here {mine.get(name, 'none')}"
        for name, value in traits.items()
        if mine.get(name) != value
    ]


def _check_traits(what: str, traits: Mapping[str, str], runtime: Runtime) -> None:
    """Raises CompileError, with each difference, unless the platform has these traits."""
    if wrong := differences(traits, runtime.client):
        raise CompileError(
            f"{what} was compiled for another platform or version than {runtime.device_name}: {'; '.join(wrong)}; "
            "compile it for this one"
        )


def _mesh(packed: Packed, by_id: dict[int, Any]) -> Mesh:
    devices = np.empty(len(packed.devices), dtype=object)
    devices[:] = [by_id[i] for i in packed.devices]
    names, sizes = zip(*packed.mesh, strict=True)
    kinds = (jax.sharding.AxisType.Auto,) * len(names)
    return Mesh(devices.reshape(sizes), names, axis_types=kinds)


def _value(packed: PackedValue, mesh: Mesh) -> Value:
    sharding = NamedSharding(mesh, packed.spec, memory_kind=packed.memory)
    return Value(packed.name, packed.shape, sharding, packed.memory, packed.aliases)


def _cached(
    cache: ExecutableCache, key: str, runtime: Runtime, mesh: Mesh, signature: Signature
) -> executable.Program | None:
    blob = cache.get(key)
    if blob is None:
        return None
    try:
        return runtime.client.load_cached(
            blob,
            list(mesh.devices.flat),
            [value.struct for value in signature.results],
        )
    except (RuntimeError, ValueError) as error:
        _LOG.warning("a cached program could not be loaded (%s); compiling it anew", error)
        return None


def _checked_flags(name: str, options: CompileOptions) -> dict[str, bool | int | float | str]:
    """The XLA flags, if each is of a type that XLA takes. What is wrong beyond that XLA says itself."""
    for flag, value in options.xla_flags.items():
        if not isinstance(flag, str) or not isinstance(value, bool | int | float | str):
            raise CompileError(
                f"compile {name}: the XLA flag {flag!r} is {value!r:.80} ({type(value).__name__}); expected the "
                "name of a flag, and a bool, a number or a string"
            )
    return dict(options.xla_flags)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name)


def _run_passes(name: str, module: lowering.Module, options: CompileOptions) -> None:
    before = module.interface() if options.passes else ""
    for number, step in enumerate(options.passes):
        what = f"pass {number} of {name} ({step if isinstance(step, str) else function_name(step)})"
        try:
            if isinstance(step, str):
                module.run_pipeline(step)
            else:
                with module.ir.context:
                    step(module.ir)
            module.verify()
        except Exception as error:
            # A pass is the user's code: whatever it raises is told with the pass's name.
            raise CompileError(f"{what} failed: {error}") from error
        if (after := module.interface()) != before:
            raise CompileError(
                f"{what} changed what the program takes and gives: {before} became {after}; a pass changes how results "
                "are computed, not which"
            )


def _explain(name: str, runtime: Runtime, module: lowering.Module, message: str) -> str:
    """What the compiler said, and the line of the user's code that it is about, if it named an operation."""
    frames = module.frames(message)
    said = f"compiling {name} for {runtime.device_name}: {message}"
    if not frames:
        return said
    # Innermost first. The caller of the compilation is of no help; nor are zml's own lines, unless there are no others.
    names = [file for file, _ in frames]
    inside = frames[: names.index(program.__file__)] if program.__file__ in names else frames
    users = [f for f in inside if _ZML not in Path(f[0]).parents or f[0].endswith("_test.py")]
    above_ops = [f for f in inside if not f[0].startswith((f"{_ZML}/ops/", f"{_ZML}/tensor.py"))]
    file, line = (users or above_ops or frames)[0]
    return f"{said}\n  at {file}:{line}: {linecache.getline(file, line).strip()}"
