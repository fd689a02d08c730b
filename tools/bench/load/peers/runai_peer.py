"""runai-model-streamer: every tensor of the files as a torch tensor on the CPU, in an interpreter that has it."""

import importlib.metadata
import json
import sys
import time

from runai_model_streamer import SafetensorsStreamer

from tools.bench.load.peers import files


def main() -> None:
    """Reads a job from stdin, prints its seconds."""
    job = json.load(sys.stdin)
    files.prepare(job)
    began = time.perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(job["files"])
        # A tensor is valid until the next one comes, unless it is copied.
        tensors = [tensor.clone().detach() for _, tensor in streamer.get_tensors()]
    seconds = time.perf_counter() - began
    files.answer(
        seconds,
        sum(t.numel() * t.element_size() for t in tensors),
        f"runai-model-streamer {importlib.metadata.version('runai-model-streamer')}",
    )


if __name__ == "__main__":
    main()
