"""Llama against transformers: the logits and the greedy tokens that tools/golden/make.py recorded."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.io import TensorStore
from zml.io.load import load
from zml.llm.chat import ChatTemplate
from zml.llm.engine import Engine
from zml.llm.sampling import Sampling
from zml.models import llama
from zml.platform import Platform
from zml.tokenizer import TextStream, Tokenizer

GOLDEN = Path(__file__).parent / "golden" / "llama"
VARIANTS = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())


def _golden(variant: str) -> dict[str, Any]:
    with np.load(GOLDEN / variant / "golden.npz", allow_pickle=False) as file:
        return dict(file)


def test_there_are_the_variants_that_the_readme_promises() -> None:
    assert len(VARIANTS) == 13


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_a_whole_prompt(variant: str) -> None:
    golden = _golden(variant)
    folder = GOLDEN / variant
    config = llama.Config.from_dict(json.loads((folder / "config.json").read_text()))
    platform = Platform.init("cpu")
    store = TensorStore.open(folder)
    weights = load(llama.weight_specs(config), store, platform, np.dtype(np.float32))

    def forward(weights: Any, tokens: jax.Array) -> jax.Array:
        return llama.forward(config, weights, tokens)

    tokens = platform.put(golden["prompt_ids"])
    logits = platform.compile(forward, weights, tokens)(weights, tokens)
    # atol alone: NaN fails it, and small logits are held to the same error as large ones.
    np.testing.assert_allclose(np.asarray(logits)[-16:], golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens(variant: str) -> None:
    golden = _golden(variant)
    engine = Engine.open(str(GOLDEN / variant), Platform.init("cpu"))
    engine.start(len(golden["prompt_ids"]))
    pieces = engine.generate(
        golden["prompt_ids"].tolist(), Sampling(), max_new_tokens=64, ignore_eos=True
    )
    assert [piece.token for piece in pieces] == golden["greedy_ids"].tolist()


def test_greedy_tokens_split_over_three_devices() -> None:
    """Two KV heads do not divide by three: what does not split is replicated, and the result is the same."""
    golden = _golden("gqa")
    engine = Engine.open(str(GOLDEN / "gqa"), Platform.init("cpu", device_count=3))
    engine.start(len(golden["prompt_ids"]))
    pieces = engine.generate(
        golden["prompt_ids"].tolist(), Sampling(), max_new_tokens=64, ignore_eos=True
    )
    assert [piece.token for piece in pieces] == golden["greedy_ids"].tolist()


def test_bfloat16_stays_near_float32() -> None:
    """The 16-bit path has no golden tokens; its logits are held to a share of their norm."""
    golden = _golden("bfloat16")
    folder = GOLDEN / "bfloat16"
    config = llama.Config.from_dict(json.loads((folder / "config.json").read_text()))
    store = TensorStore.open(folder)
    weights = load(llama.weight_specs(config), store, Platform.init("cpu"), np.dtype(jnp.bfloat16))
    weights = jax.tree.map(np.asarray, weights)
    logits = np.asarray(llama.forward(config, weights, jnp.asarray(golden["prompt_ids"])))[-16:]
    error = np.linalg.norm(logits - golden["logits"]) / np.linalg.norm(golden["logits"])
    assert 1e-4 < error < 0.1  # below: it did not run in bfloat16; NaN fails


def test_text_of_the_variant_with_a_tokenizer() -> None:
    golden = _golden("mha_tied")
    folder = GOLDEN / "mha_tied"
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.open(folder, config["vocab_size"])
    prompt = golden["prompt_ids"].tolist()
    assert tokenizer.encode(str(golden["prompt_text"]), add_special_tokens=False) == prompt
    assert (
        tokenizer.encode(str(golden["chat_text"]), add_special_tokens=False)
        == golden["chat_ids"].tolist()
    )
    stream = TextStream(tokenizer.decode, prompt)
    text = "".join(stream.push(token) for token in golden["greedy_ids"].tolist()) + stream.flush()
    # transformers was asked to keep special tokens in the text; zml leaves them out.
    assert text == str(golden["greedy_text"]).replace("<pad>", "")


def test_chat_template_renders_as_transformers_does() -> None:
    golden = _golden("mha_tied")
    messages = [
        {"role": "user", "content": str(golden["prompt_text"])},
        {"role": "assistant", "content": "A fox."},
        {"role": "user", "content": " Why? "},
    ]
    template = ChatTemplate.open(GOLDEN / "mha_tied")
    assert template is not None
    assert template.render(messages) == str(golden["chat_text"])
