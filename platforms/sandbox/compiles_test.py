"""A sandbox's plugin compiles without the device, and with nothing of a CUDA toolkit that the host has.

Run by name: ./bazel test //platforms/cuda:sandbox_test //platforms/tpu:sandbox_test
"""

import os
import subprocess
import sys
from pathlib import Path

TARGET = os.environ["SANDBOX"]
ROOT = Path("platforms", TARGET, "sandbox").absolute()

# Small description of a GPU: what XLA's compiler asks of one.
GPU = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" device_address_bits: 64 name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.12.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

PROGRAM = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxlib import xla_client

target, root, gpu = sys.argv[1:]
plugin = xla_client.load_pjrt_plugin_dynamically("described", f"{root}/lib/libpjrt_{target}.so")
xla_client.initialize_pjrt_plugin("described")
name, chosen, flags = "v5e:2x2", {}, {}
if target == "cuda":
    name, chosen = "gpu", {"target_config": gpu, "topology": "1x1x1"}
    flags = {"xla_gpu_cuda_data_dir": root}
topology = xla_client.make_c_api_device_topology(plugin, name, **chosen)
devices = np.array(topology._make_compile_only_devices()[:1])
place = NamedSharding(Mesh(devices, ("x",)), PartitionSpec())
x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=place)
lowered = jax.jit(lambda a, b: jnp.tanh(a @ b), in_shardings=place, out_shardings=place).lower(x, x)
blob = lowered.compile(compiler_options=flags).runtime_executable().serialize()
print(len(blob), blob.count(b"\\x7fELF"), sep=",")
print(*sorted({line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}))
"""


def test_it_compiles_with_nothing_of_the_host_s_toolkit(tmp_path: Path) -> None:
    """A toolkit where XLA would look: each of its tools leaves a trace and fails."""
    toolkit = tmp_path / "toolkit/bin"
    toolkit.mkdir(parents=True)
    for tool in ("ptxas", "nvlink"):
        (toolkit / tool).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
        (toolkit / tool).chmod(0o755)
    environment = {
        "PATH": f"{toolkit}:/usr/bin:/bin",
        "CUDA_ROOT": str(toolkit.parent),
        "CUDA_HOME": str(toolkit.parent),
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, TARGET, str(ROOT), GPU],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    sizes, loaded = result.stdout.splitlines()
    size, cubins = map(int, sizes.split(","))
    assert size > 1000 and (cubins > 0 or TARGET == "tpu")
    assert not (tmp_path / "called").exists()
    names = {Path(path).name for path in loaded.split()}
    assert f"libpjrt_{TARGET}.so" in names
    cuda = [path for path in loaded.split() if "/libcu" in path or "/libnv" in path]
    # The same file may have another path: Bazel's sandbox is made of links.
    assert all(Path(path).samefile(ROOT / "lib" / Path(path).name) for path in cuda), cuda
