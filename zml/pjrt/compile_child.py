"""`python -m zml.pjrt.compile_child FOLDER`: compiles for hardware that is not here, in a process of its own.

An incomplete description of a device makes XLA end the process. FOLDER holds request.json and, unless only the devices
are asked for, module.bc; the answer is answer.json with program.bin and hlo.txt beside it. What cannot be done is in
the answer as `error`; where there is no answer the process was ended, and the last words are on stderr.
"""

import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

from jaxlib import _jax, xla_client
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import chlo, mhlo, sdy, stablehlo

from zml.pjrt.build_options import build_options

FIELDS = {
    "arguments": "argument_size_in_bytes",
    "results": "output_size_in_bytes",
    "reused": "alias_size_in_bytes",
    "temporaries": "temp_size_in_bytes",
    "code": "generated_code_size_in_bytes",
}
"""The memory plan's parts, as jaxlib calls them."""
ATTRIBUTES = (
    "coords", "core_on_chip", "num_cores", "slice_index", "compute_capability", "core_count", "device_vendor",
)  # fmt: skip
"""What a compiler knows of a device."""


def main(folder: Path) -> None:
    """Answers the request in the folder."""
    with contextlib.suppress(OSError):
        # Where the machine runs out of memory this process is to go, and not the one that waits for it.
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    request = json.loads((folder / "request.json").read_text("utf-8"))
    try:
        answer = _answer(folder, request)
    except (_jax.JaxRuntimeError, ValueError) as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"out of memory (memory_limit: {request['memory_limit']})"}
    (folder / "answer.part").write_text(json.dumps(answer), "utf-8")
    (folder / "answer.part").rename(folder / "answer.json")


def _answer(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    name = "described"
    api = xla_client.load_pjrt_plugin_dynamically(name, request["library"])
    xla_client.initialize_pjrt_plugin(name)
    topology: Any = xla_client.make_c_api_device_topology(
        api, request["topology"], **request["options"]
    )
    devices = topology._make_compile_only_devices()
    if request["devices"] is None:
        return {"runtime": topology.platform_version, "devices": [_device(d) for d in devices]}
    if (limit := request["memory_limit"]) is not None:
        # Here and not above: what the plugin itself takes is there whatever the program.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    by_id = {device.id: device for device in devices}
    compiled = devices[0].client.compile(
        _parse((folder / "module.bc").read_bytes()),
        xla_client.DeviceList(tuple(by_id[i] for i in request["devices"])),
        build_options(request["devices"], request["shardy"], dict(request["flags"])),
    )
    (folder / "program.bin").write_bytes(compiled.serialize())
    (folder / "hlo.txt").write_text(
        "\n".join(module.to_string() for module in compiled.hlo_modules()), "utf-8"
    )
    stats = compiled.get_compiled_memory_stats()
    return {
        "memory": {name: getattr(stats, field) for name, field in FIELDS.items()},
        "cost": _cost(compiled),
        "peak_bytes": _peak_bytes(),
    }


def _parse(module: bytes) -> Any:
    """The module, with the dialects that JAX lowers to."""
    registry, context = ir.DialectRegistry(), ir.Context()
    _jax_mlir_ext.register_dialects(registry)
    context.append_dialect_registry(registry)
    context.load_all_available_dialects()
    sdy.register_dialect(context)
    mhlo.register_mhlo_dialect(context)
    chlo.register_dialect(context)
    stablehlo.register_dialect(context)
    return ir.Module.parse(module, context)


def _device(device: Any) -> dict[str, Any]:
    attributes = {name: getattr(device, name, None) for name in ATTRIBUTES}
    return {
        "id": device.id,
        "kind": device.device_kind,
        "platform": device.platform,
        "process": device.process_index,
        "attributes": {name: value for name, value in attributes.items() if value is not None},
    }


def _cost(compiled: Any) -> dict[str, float]:
    try:
        found = compiled.cost_analysis()
    except _jax.JaxRuntimeError:  # a plugin need not estimate
        return {}
    first = found[0] if isinstance(found, list) else found
    return {name: float(value) for name, value in (first or {}).items()}


def _peak_bytes() -> int:
    """The largest memory that this process, or a compiler that it called, has had."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(x).ru_maxrss for x in who) * unit


if __name__ == "__main__":
    main(Path(sys.argv[1]))
