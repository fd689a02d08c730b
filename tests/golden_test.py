"""Every architecture against transformers: the logits and the greedy tokens that tools/golden recorded."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.io import TensorStore, load
from zml.llm.engine import Engine
from zml.llm.sampling import Sampling
from zml.models import Decoder, architecture
from zml.platform import CpuOptions, Platform
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = sorted(
    f"{path.parent.parent.name}/{path.parent.name}" for path in GOLDEN.glob("*/*/golden.npz")
)


@cache
def platform(devices: int) -> Platform:
    opened = Platform.init("cpu", CpuOptions(devices))
    opened.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return opened


def golden(variant: str) -> dict[str, Any]:
    with np.load(GOLDEN / variant / "golden.npz", allow_pickle=False) as file:
        return dict(file)


def test_there_are_the_variants_that_the_readme_promises() -> None:
    count = {
        name: sum(v.startswith(name + "/") for v in VARIANTS)
        for name in sorted({v.split("/")[0] for v in VARIANTS})
    }
    assert count == {"gemma3": 6, "llama": 13, "mistral": 6, "qwen2": 6, "qwen3": 6}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_a_whole_prompt(variant: str) -> None:
    expected, one = golden(variant), platform(1)
    config = json.loads((GOLDEN / variant / "config.json").read_text())
    arch = architecture(config["model_type"])
    store = TensorStore.open(GOLDEN / variant)
    model = arch.init(store.view("f32"), arch.read_config(config))
    tokens = one.put(expected["prompt_ids"], ("s",))
    exe = one.compile(Decoder.forward, model, tokens)
    logits = exe(load(model, store, one), tokens).numpy()
    # atol alone: NaN fails it, and small logits are held to the same error as large ones.
    np.testing.assert_allclose(logits[-16:], expected["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens(variant: str, devices: int) -> None:
    expected = golden(variant)
    assert greedy(variant, platform(devices)) == expected["greedy_ids"].tolist()


def test_greedy_tokens_on_three_devices() -> None:
    """Four heads do not divide by three: what does not divide is whole everywhere, and the result is the same."""
    assert greedy("llama/gqa", platform(3)) == golden("llama/gqa")["greedy_ids"].tolist()


def greedy(variant: str, where: Platform) -> list[int]:
    prompt = golden(variant)["prompt_ids"].tolist()
    engine = Engine.open(str(GOLDEN / variant), where)
    engine.start(len(prompt))
    pieces = engine.generate(prompt, Sampling(), max_new_tokens=64, ignore_eos=True)
    return [piece.token for piece in pieces if piece.token is not None]


def test_bfloat16_stays_near_float32() -> None:
    """The 16-bit path has no golden tokens; its logits are held to a share of their norm."""
    expected, one = golden("llama/bfloat16"), platform(1)
    folder = GOLDEN / "llama/bfloat16"
    config = json.loads((folder / "config.json").read_text())
    arch = architecture(config["model_type"])
    store = TensorStore.open(folder)
    model = arch.init(store.view("bf16"), arch.read_config(config))
    exe = one.compile(
        Decoder.forward, model, Tensor.declare({"s": len(expected["prompt_ids"])}, "i32")
    )
    weights = load(model, store, one)
    logits = exe(weights, one.put(expected["prompt_ids"], ("s",))).numpy()[-16:]
    error = np.linalg.norm(logits - expected["logits"]) / np.linalg.norm(expected["logits"])
    assert 1e-4 < error < 0.1  # below: it did not run in bfloat16; NaN fails
