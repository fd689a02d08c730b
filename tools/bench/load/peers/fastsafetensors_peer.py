"""fastsafetensors: every tensor of the files as a torch tensor on the CPU, in an interpreter that has it."""

import importlib.metadata
import json
import sys
import time

from fastsafetensors import SafeTensorsFileLoader, SingleGroup

from tools.bench.load.peers import files


def main() -> None:
    """Reads a job from stdin, prints its seconds."""
    job = json.load(sys.stdin)
    files.prepare(job)
    began = time.perf_counter()
    loader = SafeTensorsFileLoader(SingleGroup(), device="cpu", nogds=True)
    loader.add_filenames({0: job["files"]})
    buffers = loader.copy_files_to_device()
    tensors = [buffers.get_tensor(name) for name in loader.get_keys()]
    seconds = time.perf_counter() - began
    files.answer(
        seconds,
        sum(t.numel() * t.element_size() for t in tensors),
        f"fastsafetensors {importlib.metadata.version('fastsafetensors')}",
    )


if __name__ == "__main__":
    main()
