"""llama.cpp through llama-cpp-python's low-level API: llama_decode itself, so that Python costs microseconds a step."""

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from tools.bench.llm.peers import driver


class LlamaCpp:
    """A GGUF file in a context of its own."""

    def __init__(self, job: dict[str, Any]) -> None:
        options = job["llama_cpp"]
        # Held, or it is freed while llama.cpp still calls it.
        self._log = llama_cpp.llama_log_callback(_ignore)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            job["model"].encode(), llama_cpp.llama_model_default_params()
        )
        if model is None:
            raise SystemExit(f"llama.cpp cannot load {job['model']}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = job["context"]
        params.n_batch = params.n_ubatch = options["ubatch"]
        params.n_threads = params.n_threads_batch = job["threads"]
        params.flash_attn_type = options["flash_attn"]
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        if self._context is None:
            raise SystemExit("llama.cpp cannot make a context")
        self._batch = options["ubatch"]
        self._options = options
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def clear(self) -> None:
        """Empties the KV cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def extend(self, tokens: list[int]) -> int:
        """Runs tokens, n_batch at a time; the likeliest next one."""
        for start in range(0, len(tokens), self._batch):
            part = tokens[start : start + self._batch]
            ids = (llama_cpp.llama_token * len(part))(*part)
            code = llama_cpp.llama_decode(
                self._context, llama_cpp.llama_batch_get_one(ids, len(part))
            )
            if code:
                raise SystemExit(f"llama_decode: {code}")
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())

    def about(self) -> dict[str, Any]:
        """The version, how it was built, and the settings that were used."""
        build = llama_cpp.llama_print_system_info().decode().strip(" |\n")
        return {"about": {"version": llama_cpp.__version__, "build": build, **self._options}}


def _ignore(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    pass


if __name__ == "__main__":
    driver.run(LlamaCpp)
