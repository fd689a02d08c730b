"""A Platform owns one PJRT client, its devices, their mesh and the shardings made of it. There is no default one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import jax
from jax.sharding import NamedSharding

from zml.buffer import Buffer
from zml.errors import BufferError, UnsupportedError
from zml.kernels.cpu.library import Library, Missing
from zml.model_tree import is_leaf, path_name
from zml.pjrt.client import Client
from zml.pjrt.described import nowhere
from zml.pjrt.host import Host
from zml.platform import described, opening, values
from zml.platform.candidates import Candidate
from zml.platform.describe import describe as draw
from zml.platform.device import Device
from zml.platform.options import Options, PlatformOptions
from zml.platform.target import Target
from zml.shape import Shape
from zml.sharding import (
    LOW_BANDWIDTH,
    LogicalMesh,
    PhysicalMesh,
    Sharding,
    ShardingError,
    Strategy,
    select,
)

if TYPE_CHECKING:
    from zml.compile import CompileOptions, Exe, ExecutableCache


@dataclass(frozen=True, eq=False, repr=False)
class Platform:
    """The devices of one kind of accelerator, and everything that is reached from them. Printing one shows a tree.

    Made by `Platform.init` or `Platform.auto`. Each has a private PJRT client: several live side by side, and jax's own
    devices are left alone.
    """

    target: Target
    client: Client
    """The private PJRT client: for tools, and for what has no name here."""
    devices: tuple[Device, ...]
    """All devices, those of other processes included, in the order of the mesh."""
    mesh: PhysicalMesh
    """What joins the devices."""
    cache: "ExecutableCache | None" = None
    """Keeps compiled programs between runs."""
    passed_over: tuple[Candidate, ...] = ()
    """What `auto` tried before it took this platform, with the reason of each."""
    kernels: Library | Missing | None = None
    """The native kernels that programs for the CPU call; None for what has none of its own."""
    _shardings: dict[str, Sharding] = field(default_factory=dict)

    @staticmethod
    def init(
        target: Target | str,
        options: Options | None = None,
        *,
        cache: "ExecutableCache | None" = None,
        host: Host | None = None,
    ) -> "Platform":
        """Opens a platform: `Platform.init("cpu", CpuOptions(device_count=2))`.

        `options` are PlatformOptions, or the options of one kind alone; those the target does not take are an error.
        `host` is the machine to look for runtimes on, for tests. Raises UsageError for wrong options, UnsupportedError
        where the runtime or the hardware is missing: it says which file, what the loader said and how to mend it.
        """
        chosen = PlatformOptions.of(options)
        client = opening.open_client(Target.of(target), chosen, host or Host())
        return Platform._of(client, cache)

    @staticmethod
    def auto(
        options: Options | None = None,
        *,
        cache: "ExecutableCache | None" = None,
        host: Host | None = None,
    ) -> "Platform":
        """Opens the best platform whose runtime and hardware are here: tpu, neuron, rocm, cuda, else cpu.

        Options of a target that is not taken are left unused. `passed_over` says why each of the others was
        not taken; the log does of those whose runtime is here.
        """
        client, passed = opening.first(PlatformOptions.of(options), host or Host())
        return Platform._of(client, cache, passed)

    @staticmethod
    def describe(
        name: str,
        *,
        cache: "ExecutableCache | None" = None,
        timeout_seconds: float = 1800.0,
        memory_limit: int | None = None,
        host: Host | None = None,
    ) -> "Platform":
        """Hardware that is not here: `Platform.describe("cuda:h100x4")`, `Platform.describe("tpu:v5e:2x2")`.

        It has devices to compile for and none to run on. Programs are compiled in a child process, which takes at most
        `timeout_seconds` for each and, if given, `memory_limit` bytes; it may crash and does this process no harm.
        `described.chips()` lists the names; `cuda:my_gpu.txtpb` reads a description of your own. Raises UsageError for
        a name that is none, UnsupportedError where the target's plugin is not here or does not know the hardware.
        """
        client = described.open_client(name, host or Host(), timeout_seconds, memory_limit)
        return Platform._of(client, cache)

    @staticmethod
    def _of(
        client: Client, cache: "ExecutableCache | None", passed: Sequence[Candidate] = ()
    ) -> "Platform":
        mesh, devices = opening.mesh_of(client)
        kernels = opening.native_kernels(client)
        return Platform(Target(client.target), client, devices, mesh, cache, tuple(passed), kernels)

    @property
    def has_kernels(self) -> bool:
        """Whether programs call native kernels, instead of leaving all to XLA."""
        return isinstance(self.kernels, Library)

    @property
    def is_described(self) -> bool:
        """Whether its devices are only described: there are none to run on."""
        return self.client.is_described

    @property
    def device_name(self) -> str:
        """What the devices are, for reports: `cpu` or `2 x cpu`."""
        count, kind = len(self.devices), self.devices[0].kind
        return kind if count == 1 else f"{count} x {kind}"

    @property
    def local_devices(self) -> tuple[Device, ...]:
        """The devices of this process."""
        return tuple(device for device in self.devices if device.local)

    @cached_property
    def memories(self) -> tuple[str, ...]:
        """The kinds of memory that every device of this process has, the default one first."""
        first, *others = self.local_devices
        return tuple(k for k in first.memories if all(k in device.memories for device in others))

    @property
    def version(self) -> str:
        """The version of the runtime, in its own words."""
        return self.client.version

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the runtime says of itself, by name."""
        return self.client.attributes

    def __repr__(self) -> str:
        return f"Platform({self.target.value!r}, {self.device_name})"

    def __str__(self) -> str:
        return draw(self)

    # Shardings

    def sharding(
        self,
        name: str,
        logical: LogicalMesh,
        strategy: Strategy | None = None,
        *,
        mesh: PhysicalMesh | None = None,
    ) -> Sharding:
        """Registers a sharding and returns it: `platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))`.

        Without a strategy the intents suggest one; `mesh` is another form of the platform's devices. The same
        definition may be registered again. Raises ShardingError for another one under a name that is taken.
        """
        made = Sharding.of(name, mesh or self.mesh, logical, strategy)
        self.check_sharding(made)
        known = self._shardings.setdefault(name, made)
        if known != made:
            raise ShardingError(
                f"sharding {name!r} is registered already, as {known.logical} by {known.strategy}, and not as "
                f"{made.logical} by {made.strategy}; give the second another name"
            )
        return known

    @property
    def shardings(self) -> tuple[Sharding, ...]:
        """The registered shardings, in the order of registration."""
        return tuple(self._shardings.values())

    @cached_property
    def replicated(self) -> Sharding:
        """A whole copy on every device: for shapes that are closed on no logical axis."""
        whole = LogicalMesh(replica=LOW_BANDWIDTH)
        return Sharding.of("replicated", self.mesh, whole, Strategy(replica=()))

    def sharding_for(self, shape: Shape, sharding: Sharding | None = None) -> Sharding:
        """The sharding that places a shape: the given one, else the first registered that covers it.

        On a platform without registered shardings that is `replicated`. Raises ShardingError if none covers the shape.
        """
        if sharding is not None:
            self.check_sharding(sharding)
            return select([sharding], shape)
        if not self._shardings and not self.replicated.covers(shape):
            raise ShardingError(
                f"{shape} is cut over logical axes, but {self!r} has no sharding registered; register one that has "
                "them: platform.sharding('model', zml.LogicalMesh(model=zml.HIGH_BANDWIDTH))"
            )
        return select(self.shardings or (self.replicated,), shape)

    @cached_property
    def _handles(self) -> frozenset[jax.Device]:
        return frozenset(device.handle for device in self.devices)

    def check_sharding(self, sharding: Sharding) -> None:
        """Raises ShardingError unless all devices of the sharding are this platform's."""
        foreign = [d for d in sharding.physical.devices if d.handle not in self._handles]
        if foreign:
            count = len(sharding.physical.devices)
            raise ShardingError(
                f"sharding {sharding.name!r} is over {count} x {foreign[0].kind or foreign[0].platform}, of which "
                f"{len(foreign)} are devices of another platform than {self!r}; make it here: "
                f"platform.sharding({sharding.name!r}, ...)"
            )

    # Values

    def put(
        self,
        value: Any,
        tags_or_shape: Iterable[str] | Shape | None = None,
        *,
        sharding: Sharding | None = None,
        memory: str | None = None,
        zero_copy: bool = False,
    ) -> Buffer:
        """Host data on the devices, each part where the shape's partitioning says: `put(tokens, ("s",))`.

        `value` is a Slice, a Tensor with a value, an array, a list or a number. Arrays and lists need their tags or
        their Shape. Python numbers become bool, i32, f32 or c64, or what the Shape says. With several processes each
        gives the same whole value. `memory` is one of `platform.memories`.

        The value is copied. With `zero_copy` it need not be: on the CPU a contiguous array at an address divisible by
        64 then is the buffer's memory, so it must not change for as long as the buffer lives.

        Raises ShapeError for a value that does not fit, ShardingError for a shape that no sharding fits.
        """
        array, shape = values.host_value(value, tags_or_shape)
        return values.put(array, shape, self.where(shape, sharding, memory), zero_copy)

    def put_tree(
        self,
        tree: Any,
        *,
        sharding: Sharding | None = None,
        memory: str | None = None,
        zero_copy: bool = False,
    ) -> Any:
        """A tree of Slices, Tensors with values and numbers as the same tree of Buffers, each placed as `put` does."""

        def one(leaf: Any) -> Buffer:
            return self.put(leaf, sharding=sharding, memory=memory, zero_copy=zero_copy)

        return jax.tree.map(one, tree, is_leaf=is_leaf)

    def zeros(
        self, shapes: Any, *, sharding: Sharding | None = None, memory: str | None = None
    ) -> Any:
        """Zeros for a Shape, a declared Tensor or a tree of them (a KV cache): the same tree of Buffers.

        Each is placed as `put` places a value; the large ones are made on the devices, without a copy on the host.
        """
        found, tree = jax.tree_util.tree_flatten_with_path(shapes, is_leaf=is_leaf)
        declared = [values.declared(path_name(path), leaf) for path, leaf in found]
        wanted = [(x, self.where(x, sharding, memory or kind)) for x, kind in declared]
        flags = dict(self.client.xla_flags)
        return jax.tree.unflatten(tree, values.zeros(wanted, self.memories[0], flags))

    def where(
        self, shape: Shape, sharding: Sharding | None = None, memory: str | None = None
    ) -> NamedSharding:
        """Where `put` places a value of that shape. Raises ShardingError, BufferError, and UnsupportedError where the
        devices are only described."""
        if self.is_described:
            raise UnsupportedError(nowhere(self.device_name, "put a value on"))
        if memory is not None and memory not in self.memories:
            raise BufferError(
                f"{self!r} has no memory of the kind {memory!r}; it has {', '.join(self.memories)}"
            )
        return self.sharding_for(shape, sharding).named(shape, memory)

    # Programs

    def compile(
        self,
        fn: Callable[..., Any],
        *args: Any,
        shardings: Sequence[Sharding] | None = None,
        options: "CompileOptions | None" = None,
        name: str | None = None,
    ) -> "Exe":
        """Compiles `fn` for arguments like `args`: Shapes, declared Tensors, Buffers, or trees of them.

        It is called once, with Tensors in their place, and gives a Tensor or a tree of them; None stays None. Values
        are cut by the first of `shardings` that has their logical axes; by default, by the registered shardings that
        the arguments need. `name` is what messages and profiles call the program, by default the function's name. Where
        the platform has a cache, a program that is in it is not compiled again.

        Raises CompileError for arguments and results that are no tensors, for what cannot be lowered or compiled (with
        the user's line) and for a pass that fails, ShardingError for shapes that the shardings do not fit, and what
        `fn` itself raises.
        """
        from zml.compile.compiler import compile_function

        return compile_function(self, fn, args, shardings=shardings, options=options, name=name)

    def deserialize(self, blob: bytes) -> "Exe":
        """The program that `Exe.serialize` wrote, for this platform. Raises CompileError if it is for another one."""
        from zml.compile.compiler import deserialize

        return deserialize(self, blob)

    def close(self) -> None:
        """Leaves the other processes, after waiting for them. One process alone has nothing to do.

        A process that ends without it ends the others too, as one that failed must: they would wait for it for ever.
        """
        if self.client.distributed is not None:
            self.client.distributed.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.close()
