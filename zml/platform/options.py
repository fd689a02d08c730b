"""What a platform is opened with. Wrong values are refused where they are written, not by the runtime."""

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from zml.errors import UsageError
from zml.platform.target import Target

type Allocator = Literal["default", "platform", "bfc", "cuda_async", "vmm"]
_ALLOCATORS: tuple[str, ...] = get_args(Allocator.__value__)


@dataclass(frozen=True)
class CpuOptions:
    """The host's CPU as one device or, for sharding, as several that share its cores and memory."""

    device_count: int = 1
    plugin: bool = False
    """Run on the PJRT plugin in the sandbox `cpu_plugin`, not on the client in jaxlib, which is faster and newer."""

    def __post_init__(self) -> None:
        _check_integer("CpuOptions.device_count", self.device_count, 1)


@dataclass(frozen=True)
class GpuOptions:
    """Memory and choice of NVIDIA and AMD GPUs; None leaves it to the runtime. Source: XLA's GpuClientOptions."""

    allocator: Allocator = "default"
    """How device memory is had: `platform` asks the driver each time, the others keep a pool."""
    memory_fraction: float | None = None
    """The pool's share of each device's memory, over 0 and up to 1."""
    preallocate: bool | None = None
    """Whether the pool is taken at once."""
    collective_memory_size: int | None = None
    """Bytes of memory set apart for collectives."""
    visible_devices: tuple[int, ...] | None = None
    """The numbers of the devices to use, as the driver counts them; all by default."""

    def __post_init__(self) -> None:
        if self.allocator not in _ALLOCATORS:
            raise UsageError(
                f"GpuOptions.allocator: {self.allocator!r} is none; expected one of {', '.join(_ALLOCATORS)}"
            )
        fraction = self.memory_fraction
        if fraction is not None and not (_is_number(fraction) and 0 < fraction <= 1):
            raise UsageError(
                f"GpuOptions.memory_fraction: {fraction!r} is not a share of the device's memory; "
                "expected a number over 0 and up to 1, such as 0.9"
            )
        if self.allocator == "platform" and (fraction is not None or self.preallocate):
            raise UsageError(
                "GpuOptions: the allocator 'platform' keeps no pool, so memory_fraction and preallocate have no "
                "meaning; leave them out, or take another allocator"
            )
        if self.collective_memory_size is not None:
            _check_integer("GpuOptions.collective_memory_size", self.collective_memory_size, 0)
        if self.visible_devices is not None:
            object.__setattr__(self, "visible_devices", tuple(self.visible_devices))
            for number in self.visible_devices:
                _check_integer("GpuOptions.visible_devices", number, 0)
            if not self.visible_devices or len(set(self.visible_devices)) < len(
                self.visible_devices
            ):
                raise UsageError(
                    f"GpuOptions.visible_devices: {self.visible_devices}; expected one device or more, each once"
                )

    def client_options(self, target: Target) -> dict[str, Any]:
        """The same under the names of the GPU plugin's client options."""
        chosen: dict[str, Any] = {
            "platform_name": "ROCM" if target is Target.ROCM else target.value,
            "allocator": self.allocator,
            "memory_fraction": self.memory_fraction,
            "preallocate": self.preallocate,
            "collective_memory_size": self.collective_memory_size,
            "visible_devices": None if self.visible_devices is None else list(self.visible_devices),
        }
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class DistributedOptions:
    """This process's place among several that form one platform. All give the same address and number."""

    address: str
    """host:port where process 0 listens and the others find it."""
    process: int
    """Which one this is, from 0."""
    processes: int
    timeout_seconds: int = 300
    """How long to wait for the others."""
    hostname: str | None = None
    """Where the others reach this process for collectives on the CPU; by default what the host calls itself."""

    def __post_init__(self) -> None:
        host, colon, port = str(self.address).rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise UsageError(
                f"DistributedOptions.address: {self.address!r}; expected host:port of process 0, "
                "such as '10.0.0.1:8476'"
            )
        _check_integer("DistributedOptions.processes", self.processes, 1)
        _check_integer("DistributedOptions.process", self.process, 0)
        _check_integer("DistributedOptions.timeout_seconds", self.timeout_seconds, 1)
        if self.process >= self.processes:
            raise UsageError(
                f"DistributedOptions.process: {self.process} of {self.processes} processes; "
                f"expected 0 to {self.processes - 1}"
            )


@dataclass(frozen=True)
class PlatformOptions:
    """The options of all targets; None is the target's default. A target refuses the options of another one."""

    cpu: CpuOptions | None = None
    gpu: GpuOptions | None = None
    distributed: DistributedOptions | None = None

    @staticmethod
    def of(options: "Options | None") -> "PlatformOptions":
        """Options of one kind stand for those options alone."""
        match options:
            case None:
                return PlatformOptions()
            case PlatformOptions():
                return options
            case CpuOptions():
                return PlatformOptions(cpu=options)
            case GpuOptions():
                return PlatformOptions(gpu=options)
            case DistributedOptions():
                return PlatformOptions(distributed=options)
        raise UsageError(
            f"options: given {options!r}; expected PlatformOptions, CpuOptions, GpuOptions or DistributedOptions"
        )

    def check(self, target: Target) -> None:
        """Raises UsageError for options that the target does not take."""
        if self.cpu is not None and target is not Target.CPU:
            raise UsageError(
                f"platform {target.value!r} takes no CPU options, given {self.cpu}; leave them out"
            )
        if self.gpu is not None and target not in (Target.CUDA, Target.ROCM):
            raise UsageError(
                f"platform {target.value!r} takes no GPU options, given {self.gpu}; leave them out"
            )

    def of_target(self, target: Target) -> "PlatformOptions":
        """Without the options that the target does not take: for `Platform.auto`, which may be given several's."""
        return PlatformOptions(
            self.cpu if target is Target.CPU else None,
            self.gpu if target in (Target.CUDA, Target.ROCM) else None,
            self.distributed,
        )


type Options = PlatformOptions | CpuOptions | GpuOptions | DistributedOptions


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_integer(name: str, value: Any, least: int) -> None:
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UsageError(f"{name}: {value!r}; expected an integer of {least} or more")
