"""Names of hardware that is not here: `tpu:v5e:2x2`, `cuda:h100x4`, and what the plugins have to be told of it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zml.errors import UnsupportedError, UsageError
from zml.pjrt import plugin, sandbox
from zml.pjrt.child import Kit
from zml.pjrt.described import DescribedClient
from zml.pjrt.host import Host

_FOLDER = Path(__file__).parent / "targets"
_EXAMPLES = "tpu:v5e:2x2, cuda:h100x4, rocm:mi300x"


@dataclass(frozen=True)
class _Tpu:
    """A generation of TPUs."""

    topology: str
    """libtpu's name."""
    axes: int
    host: tuple[tuple[int, ...], ...]
    """The chips of one host, by form, largest first: a slice that fits into one is of one host."""
    chip: str | None = None
    """The configuration of a chip, where it is not libtpu's default."""


# Google Cloud, "TPU architecture" and the page of each version. v4 has one device a chip (megacore), as JAX uses it.
_FLAT, _CUBE = ((2, 4), (2, 2), (2, 1), (1, 2), (1, 1)), ((2, 2, 1), (2, 1, 1), (1, 1, 1))
_TPUS = {
    "v4": _Tpu("v4", 3, _CUBE, "megacore"),
    "v5e": _Tpu("v5e", 2, _FLAT),
    "v5p": _Tpu("v5p", 3, _CUBE),
    "v6e": _Tpu("v6e", 2, _FLAT),
    "7x": _Tpu("tpu7x", 3, _CUBE),
}


def chips() -> dict[str, list[str]]:
    """The names that can be described, by target: `tpu: v5e, ...`, `cuda: h100, ...`."""
    found: dict[str, list[str]] = {"tpu": [f"tpu:{name}" for name in _TPUS]}
    for path in sorted(_FOLDER.glob("*.txtpb")):
        target, chip = path.stem.split("_", 1)
        found.setdefault(target, []).append(f"{target}:{chip}")
    return found


def open_client(
    name: str, host: Host, timeout_seconds: float, memory_limit: int | None
) -> DescribedClient:
    """The client of a description. Raises UsageError for a wrong name, UnsupportedError without the plugin."""
    target, topology, options = _parse(name)
    if not timeout_seconds > 0:
        raise UsageError(f"timeout_seconds: {timeout_seconds!r}; expected a number over 0")
    runtime = sandbox.find(host).get(target)
    if runtime is None or not runtime.complete:
        raise UnsupportedError(
            f"platform {name!r}: its compiler, the plugin of {target}, is not in this build, nor in "
            f"{sandbox.VARIABLE}, nor installed; build with --//platforms:{target}=true, or name the folder of a "
            f"sandbox in {sandbox.VARIABLE}"
        )
    kit = Kit(
        name,
        target,
        runtime.library.absolute(),
        topology,
        options,
        plugin.environment(runtime, host),
        timeout_seconds,
        memory_limit,
    )
    return DescribedClient.of(kit, plugin.xla_flags(runtime))


def _parse(name: str) -> tuple[str, str, Mapping[str, Any]]:
    """(target, the plugin's topology, its options)."""
    target, colon, rest = name.partition(":")
    if target == "tpu" and colon:
        return "tpu", *_tpu(name, rest)
    if target in ("cuda", "rocm") and rest:
        text, count = _gpu(name, target, rest)
        return target, f"1x1x{count}", {"target_config": text, "topology": f"1x1x{count}"}
    raise UsageError(f"{name!r} describes no hardware; expected a name such as {_EXAMPLES}")


def _tpu(name: str, rest: str) -> tuple[str, Mapping[str, Any]]:
    chip, colon, form = rest.partition(":")
    tpu = _TPUS.get(chip)
    if tpu is None:
        raise UsageError(
            f"{name!r}: there is no TPU {chip!r}; expected one of {', '.join(_TPUS)}, such as tpu:v5e:2x2"
        )
    one = "x".join("1" * tpu.axes)
    sizes = tuple(int(x) for x in re.findall(r"\d+", form or one))
    if (
        not re.fullmatch(r"\d+(x\d+)*", form if colon else one)
        or len(sizes) != tpu.axes
        or 0 in sizes
    ):
        example = "2x2" if tpu.axes == 2 else "2x2x1"
        raise UsageError(
            f"{name!r}: {form!r} is no form of a slice of {chip}, whose chips are in {tpu.axes} dimensions; "
            f"expected one such as tpu:{chip}:{example}"
        )
    whole = [h for h in tpu.host if all(s % x == 0 for s, x in zip(sizes, h, strict=True))]
    # Of one host where there is such a one; else of hosts with four chips, as Google Cloud makes larger slices.
    alone = [h for h in whole if h == sizes or (sizes == h[::-1] and tpu.axes == 2)]
    four = [h for h in whole if math.prod(h) <= 4]
    if not alone and not (four and math.prod(four[0]) == 4):
        raise UsageError(
            f"{name!r}: no whole hosts make a slice of {form} chips; larger slices are of hosts with 2x2 chips"
        )
    bounds = (alone or four)[0]
    bounds = sizes if alone else bounds
    options: dict[str, Any] = {"chips_per_host_bounds": [*bounds, 1][:3]}
    if tpu.chip is not None:
        options["chip_config_name"] = tpu.chip
    return f"{tpu.topology}:{'x'.join(map(str, sizes))}", options


def _gpu(name: str, target: str, rest: str) -> tuple[str, int]:
    """The description, and how many there are."""
    known = [chip.partition(":")[2] for chip in chips()[target]]
    for chip, count in _readings(rest):
        if chip.endswith(".txtpb"):
            try:
                return Path(chip).expanduser().read_text("utf-8"), count
            except (OSError, UnicodeDecodeError, RuntimeError) as error:
                raise UsageError(
                    f"{name!r}: the description {chip} cannot be read: {error}"
                ) from error
        if chip in known and count:
            return (_FOLDER / f"{target}_{chip}.txtpb").read_text("utf-8"), count
    raise UsageError(
        f"{name!r}: there is no description of {rest!r}; expected one of {', '.join(known)}, several as "
        f"{target}:{known[0]}x4, or the path of a description, {target}:my_gpu.txtpb"
    )


def _readings(rest: str) -> list[tuple[str, int]]:
    """`h100x4` is four of h100; `rtx4090` is one, though `rt` of 4090 it might be."""
    several = re.fullmatch(r"(.+)x(\d{1,4})", rest)
    return [(rest, 1)] + ([(several[1], int(several[2]))] if several else [])
