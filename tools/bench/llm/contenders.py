"""Who is measured: an implementation and a weight format, and what it is asked."""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bench import child
from tools.bench.llm import checkpoint
from tools.bench.llm.checkpoint import Size

FORMATS = ("bf16", "int8", "int4", "f32")
"""What a decode step reads: bf16 or f32 weights as they are, int8, or int4 with lm_head in int8."""
GGUF = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
PAIR_STEPS = 8
"""Of a decode between two probes: half a second at most."""
_WARM_STARTS = 3
_ZML = {
    "bf16": ("bfloat16", "none"),
    "f32": ("float32", "none"),
    "int8": ("auto", "int8"),
    "int4": ("auto", "int4"),
}
_PROBE = """
import importlib.util, json, sys
def has(*names): return all(importlib.util.find_spec(name) for name in names)
print(json.dumps({"llama.cpp": has("llama_cpp", "numpy"), "transformers": has("torch", "transformers")}))
"""


@dataclass(frozen=True)
class Work:
    """What every contender does."""

    size: Size
    folder: Path
    """The checkpoint's."""
    runs: Sequence[dict[str, Any]]
    decode_tokens: int
    threads: int
    first_prompt: int = 1
    """Tokens of the prompt before the first token that is timed."""
    pairs: int = 1
    """Short decodes between probes of the read bandwidth."""
    probe_megabytes: int = 16

    @property
    def context(self) -> int:
        """Tokens that the longest run needs, in whole blocks of 256 as llama.cpp allots them."""
        steps = self.decode_tokens + self.pairs * PAIR_STEPS
        longest = max(len(run["prompt"]) for run in self.runs) + steps + 2
        return min(-longest % 256 + longest, self.size.max_positions)

    def job(self) -> dict[str, Any]:
        """What all jobs have in common."""
        return {
            "runs": list(self.runs),
            "decode_tokens": self.decode_tokens,
            "threads": self.threads,
            "context": self.context,
            "first_prompt": self.first_prompt,
            "pairs": self.pairs,
            "pair_steps": PAIR_STEPS,
            "probe_megabytes": self.probe_megabytes,
        }


@dataclass
class Contender:
    """One column of the report, and what its rounds have answered."""

    name: str
    format: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None
    """Why there are no more samples."""

    def measure(self, work: Work, lock: child.Lock) -> None:
        """Takes part in a round. After a problem it takes part in no more."""
        if self.problem:
            return
        sample = self._measure(work, lock)
        self.problem = sample.get("error")
        if not self.problem:
            self.samples.append(sample)

    def _measure(self, work: Work, lock: child.Lock) -> dict[str, Any]:
        raise NotImplementedError


class Zml(Contender):
    """zml.llm in a process of its own; more for the first token without and with cached executables."""

    def _measure(self, work: Work, lock: child.Lock) -> dict[str, Any]:
        dtype, quantize = _ZML[self.format]
        job = {
            **work.job(),
            "model": str(work.folder),
            "dtype": dtype,
            "quantize": quantize,
            "first_token": False,
            "executables": str(work.folder / "executables"),
        }
        module = "tools.bench.llm.zml_worker"
        sample = child.run(None, module, job, lock)
        if "runs" not in sample:
            return sample
        job["first_token"] = True
        with tempfile.TemporaryDirectory(prefix="zml-bench-") as empty:
            starts = {"cold": [child.run(None, module, {**job, "executables": empty}, lock)]}
        # The first process has filled the cache. Several in a row, as a virtual machine's memory is cold too at first.
        starts["warm"] = [child.run(None, module, job, lock) for _ in range(_WARM_STARTS)]
        for name, answers in starts.items():
            for answer in answers:
                if "error" in answer:
                    return answer
                if answer["compile_cached"] != (name == "warm"):
                    return {"error": f"{name} start: compile_cached is {answer['compile_cached']}"}
            seconds = [answer["seconds"] for answer in answers]
            sample[f"first_token_{name}_seconds"] = statistics.median(seconds)
        # Nothing compiles beside it there.
        sample["load_seconds"] = statistics.median(x["load_seconds"] for x in starts["warm"])
        return sample


@dataclass
class LlamaCpp(Contender):
    """llama.cpp on the GGUF file of the format."""

    python: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def _measure(self, work: Work, lock: child.Lock) -> dict[str, Any]:
        path = checkpoint.write_gguf(work.size, work.folder, GGUF[self.format])
        job = {**work.job(), "model": str(path), "llama_cpp": self.options}
        answer = child.run(self.python, "tools.bench.llm.peers.llama_cpp_peer", job, lock)
        if "runs" in answer:
            answer["model_bytes"], answer["weight_bytes"] = checkpoint.gguf_bytes(
                work.size, GGUF[self.format]
            )
            answer["kv_cache_bytes"] = work.size.kv_bytes(work.context)
        return answer


@dataclass
class Transformers(Contender):
    """PyTorch and transformers on the checkpoint."""

    python: str = ""

    def _measure(self, work: Work, lock: child.Lock) -> dict[str, Any]:
        job = {**work.job(), "model": str(work.folder), "dtype": _ZML[self.format][0]}
        answer = child.run(self.python, "tools.bench.llm.peers.transformers_peer", job, lock)
        if "runs" in answer:
            longest = max(len(run["prompt"]) for run in work.runs) + work.decode_tokens
            element = 2 if self.format == "bf16" else 4
            answer["kv_cache_bytes"] = work.size.kv_bytes(longest, element)
        return answer


def find_peers(pythons: Sequence[str]) -> dict[str, str]:
    """The interpreter of each peer: the first that has it. Raises SystemExit for one that has none or is none."""
    found: dict[str, str] = {}
    for python in pythons:
        try:
            done = subprocess.run(
                [python, "-c", _PROBE],
                check=True,
                capture_output=True,
                text=True,
                env=child.peer_environment(),
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"--peer_python={python}: does not run: {error}") from error
        names = [name for name, has in json.loads(done.stdout).items() if has]
        if not names:
            raise SystemExit(
                f"--peer_python={python}: has neither llama_cpp nor torch and transformers installed"
            )
        for name in names:
            found.setdefault(name, python)
    return found


def select(
    formats: Sequence[str],
    peers: Mapping[str, str],
    only: Sequence[str],
    llama_options: dict[str, Any],
) -> list[Contender]:
    """The contenders of these formats: zml, and the peers by their interpreters; `only` names those wanted."""
    found: list[Contender] = []
    for each in formats:
        found.append(Zml("zml", each))
        if "llama.cpp" in peers and each in GGUF:
            python = peers["llama.cpp"]
            found.append(LlamaCpp("llama.cpp", each, python=python, options=llama_options))
        if "transformers" in peers and each in ("bf16", "f32"):
            found.append(Transformers("transformers", each, python=peers["transformers"]))
    return [x for x in found if not only or x.name in only]
