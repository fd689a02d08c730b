"""Compiles for accelerators that are not here: every chip that has a description, and whole models.

DESCRIBED names the target whose plugin is there; without it each one is tested that is found, in the runfiles or in
ZML_SANDBOX_PATH.
"""

import os
import re
from collections import Counter
from functools import cache
from math import prod
from pathlib import Path

import pytest

import zml
from zml.errors import CompileError, UnsupportedError
from zml.io import View
from zml.llm.programs import Deployment, Programs
from zml.models import architecture
from zml.pjrt import sandbox
from zml.pjrt.host import Host
from zml.platform import Platform, described

TARGETS = [os.environ["DESCRIBED"]] if "DESCRIBED" in os.environ else ["cuda", "tpu"]
FOUND = [target for target in TARGETS if target in sandbox.find(Host())]
CHIPS = [name for target in FOUND for name in described.chips()[target]]


def test_there_is_something_to_compile_for() -> None:
    assert FOUND, "no plugin in the runfiles or in ZML_SANDBOX_PATH"


@pytest.mark.parametrize("name", [*CHIPS, *(["cuda:rtx4090x2"] if "cuda" in FOUND else [])])
def test_every_chip_compiles_a_product_and_a_sort(name: str) -> None:
    platform = Platform.describe(name)

    def f(x: zml.Tensor, w: zml.Tensor) -> zml.Tensor:
        return x.dot(w, "k").sort("n")

    exe = platform.compile(
        f, zml.Shape({"m": 32, "k": 64}, "bf16"), zml.Shape({"n": 128, "k": 64}, "bf16")
    )
    assert exe.memory.arguments >= 2 * (32 * 64 + 128 * 64)
    assert "sort" in exe.hlo
    if platform.target == "cuda":
        assert b"\x7fELF" in exe.program.serialize(), "ptxas has made machine code"


LLAMA_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 131072, "rope_theta": 500000.0,
}  # fmt: skip
QWEN3_8B = {
    "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 40960, "rope_theta": 1000000.0,
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
}  # fmt: skip
MODELS = {
    "llama_tiny": LLAMA_8B | TINY,
    "qwen3_tiny": QWEN3_8B | TINY,
    # The shapes of the 8B models. Layers are alike, and the compiler's time grows with their number.
    "llama_8b": LLAMA_8B | {"num_hidden_layers": 2},
    "qwen3_8b": QWEN3_8B | {"num_hidden_layers": 2},
}
PLACES = [
    name
    for name in ("cuda:h100", "cuda:h100x4", "tpu:v5e:1x1", "tpu:v5e:2x2")
    if name.split(":")[0] in FOUND
]
MB = 1 << 20


@cache
def opened(place: str) -> Platform:
    """Described once for all tests."""
    return Platform.describe(place)


def programs(place: str, config: dict[str, object]) -> tuple[Deployment, Programs]:
    """The programs of a model without weights, in bfloat16."""
    arch = architecture(config["model_type"])
    sizes = arch.read_config(config)
    deployment = Deployment.of(opened(place), arch, sizes, View.blank("bf16"), 2048)
    assert deployment.backend == {"cuda": "cuda_fa3", "tpu": "mosaic_tpu"}[place.split(":")[0]]
    return deployment, Programs(deployment)


_COLLECTIVE = re.compile(
    r" = (?P<type>\(.*?\)|\S+) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_PART = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")


def collectives(hlo: str) -> list[tuple[str, str, int]]:
    """(name, element type, elements) of each value that a collective makes."""
    found = []
    for match in _COLLECTIVE.finditer(hlo):
        parts = [
            (kind, prod(int(n) for n in dims.split(",") if n))
            for kind, dims in _PART.findall(match["type"])
        ]
        kind, elements = max(parts, key=lambda part: part[1])
        found.append((match["name"], kind, elements))
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tokens", [1, 64], ids=["decode", "prefill"])
def test_a_model_compiles_as_planned(place: str, model: str, tokens: int) -> None:
    config = MODELS[model]
    deployment, compiled = programs(place, config)
    exe = compiled.compile(tokens)
    devices, layers = len(deployment.platform.devices), int(str(config["num_hidden_layers"]))

    plan, inputs = exe.memory, exe.signature.inputs
    shards = sum(value.shard_bytes for value in inputs)
    # TPUs keep small values in whole tiles.
    assert shards <= plan.arguments <= shards * 1.02 + 2 * MB
    cache = sum(value.shard_bytes for value in inputs if value.name.startswith("cache."))
    assert plan.reused >= cache, "the cache is written where it lies"
    assert plan.temporaries < (64 * MB if tokens == 1 else 160 * MB)

    found = collectives(exe.hlo)
    if devices == 1:
        assert not found
        return
    # Tensor parallel: a sum after attention and one after the MLP of each layer; the embedding and the logits are
    # gathered, which TPUs may do by a sum. What else there is are flags of single elements. Weights never travel.
    large = Counter(name for name, kind, elements in found if elements >= 128)
    assert set(large) <= {"all-reduce", "all-gather"}, found
    assert large["all-reduce"] >= 2 * layers, found
    assert large.total() == 2 * layers + 2, found
    widest = max(int(str(config["hidden_size"])) * tokens, int(str(config["vocab_size"])))
    assert all(elements <= widest for _, _, elements in found), found


def place() -> str:
    """One to try what goes wrong on."""
    return PLACES[0]


def test_it_is_refused_elsewhere_by_name() -> None:
    platform = opened(place())
    blob = platform.compile(lambda x: x + x, zml.Shape({"s": 8}, "f32"), name="double").serialize()
    with pytest.raises(CompileError) as caught:
        Platform.init("cpu").deserialize(blob)
    assert f"target: {platform.target}, here cpu" in str(caught.value)


def test_what_the_compiler_refuses_is_said_with_the_users_line() -> None:
    options = zml.CompileOptions(xla_flags={"xla_no_such_flag": True})
    with pytest.raises(CompileError, match="xla_no_such_flag"):
        opened(place()).compile(lambda x: x + x, zml.Shape({"s": 8}, "f32"), options=options)


def test_one_that_has_no_memory_or_no_time_harms_nobody() -> None:
    for limits, said in (
        ({"memory_limit": 32 * MB}, "memory"),
        ({"timeout_seconds": 0.05}, "timeout_seconds"),
    ):
        with pytest.raises((CompileError, UnsupportedError), match=said):
            Platform.describe(place(), **limits).compile(
                lambda x: x + x, zml.Shape({"s": 8}, "f32")
            )


if "cuda" in FOUND:

    def test_an_incomplete_description_ends_the_child_alone(tmp_path: Path) -> None:
        path = tmp_path / "hollow.txtpb"
        path.write_text(
            'gpu_device_info { cuda_compute_capability { major: 9 } } platform_name: "CUDA"'
        )
        with pytest.raises((CompileError, UnsupportedError), match="crashed"):
            Platform.describe(f"cuda:{path}").compile(
                lambda x: x.dot(x, "k"), zml.Shape({"m": 32, "k": 64}, "bf16")
            )
