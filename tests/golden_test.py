"""Every architecture against transformers: the logits and the greedy tokens that tools/golden recorded.

The environment variable GOLDEN names the architectures to test; all of them without it.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.io import TensorStore, load
from zml.llm.engine import Engine
from zml.llm.programs import Deployment
from zml.llm.sampling import Sampling
from zml.models import Decoder, architecture
from zml.platform import CpuOptions, Platform

GOLDEN = Path(__file__).parent / "golden"
COUNTS = {"gemma3": 6, "llama": 13, "mistral": 6, "qwen2": 6, "qwen3": 6}
ARCHITECTURES = os.environ.get("GOLDEN", ",".join(COUNTS)).split(",")
VARIANTS = [
    f"{name}/{path.parent.name}"
    for name in ARCHITECTURES
    for path in sorted((GOLDEN / name).glob("*/golden.npz"))
]


@cache
def platform(devices: int) -> Platform:
    return Platform.init("cpu", CpuOptions(devices))


def golden(variant: str) -> dict[str, Any]:
    with np.load(GOLDEN / variant / "golden.npz", allow_pickle=False) as file:
        return dict(file)


def logits(variant: str, where: Platform, dtype: str) -> np.ndarray:
    """The logits of the prompt's last 16 tokens."""
    folder = GOLDEN / variant
    config = json.loads((folder / "config.json").read_text())
    arch = architecture(config["model_type"])
    store, prompt = TensorStore.open(folder), golden(variant)["prompt_ids"]
    read = arch.read_config(config)
    deployment = Deployment.of(where, arch, read, store.view(dtype), len(prompt))
    shardings = [deployment.sharding]
    tokens = where.put(prompt, ("s",), sharding=deployment.sharding)
    exe = where.compile(Decoder.forward, deployment.model, tokens, shardings=shardings)
    weights = load(deployment.model, store, where, shardings=shardings)
    found: np.ndarray = exe(weights, tokens).numpy()[-16:]
    return found


def greedy(variant: str, where: Platform) -> list[int]:
    """The 64 tokens after the prompt, in float32, as those recorded are."""
    prompt = golden(variant)["prompt_ids"].tolist()
    engine = Engine.open(str(GOLDEN / variant), where, "float32")
    engine.start(len(prompt))
    pieces = engine.generate(prompt, Sampling(), max_new_tokens=64, ignore_eos=True)
    return [piece.token for piece in pieces if piece.token is not None]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_there_are_the_variants_that_the_readme_promises(name: str) -> None:
    assert len([variant for variant in VARIANTS if variant.startswith(f"{name}/")]) == COUNTS[name]
    assert f"| {name} | {COUNTS[name]} |" in (GOLDEN / "README.md").read_text("utf-8")


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_a_whole_prompt(variant: str, devices: int) -> None:
    found = logits(variant, platform(devices), "f32")
    # atol alone: NaN fails it, and small logits are held to the same error as large ones.
    np.testing.assert_allclose(found, golden(variant)["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens(variant: str, devices: int) -> None:
    assert greedy(variant, platform(devices)) == golden(variant)["greedy_ids"].tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_tokens_on_three_devices(name: str) -> None:
    """Four heads do not divide by three: what does not divide is whole everywhere, and the result is the same."""
    variant = f"{name}/gqa"
    assert greedy(variant, platform(3)) == golden(variant)["greedy_ids"].tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16_stays_near_float32(name: str) -> None:
    """The 16-bit path has no golden tokens; its logits are held to a share of their norm."""
    variant = f"{name}/bfloat16"
    expected = golden(variant)["logits"]
    found = logits(variant, platform(1), "bf16")
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 0.1  # below: it did not run in bfloat16; NaN fails
