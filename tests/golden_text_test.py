"""The golden variant with a tokenizer: its text and its chat template, as transformers made them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from zml.llm.chat import ChatTemplate
from zml.tokenizer import TextStream, Tokenizer

FOLDER = Path(__file__).parent / "golden/llama/mha_tied"


def golden() -> dict[str, Any]:
    with np.load(FOLDER / "golden.npz", allow_pickle=False) as file:
        return dict(file)


def test_text_of_the_variant_with_a_tokenizer() -> None:
    expected = golden()
    config = json.loads((FOLDER / "config.json").read_text())
    tokenizer = Tokenizer.open(FOLDER, config["vocab_size"])
    prompt = expected["prompt_ids"].tolist()
    assert tokenizer.encode(str(expected["prompt_text"]), add_special_tokens=False) == prompt
    chat = tokenizer.encode(str(expected["chat_text"]), add_special_tokens=False)
    assert chat == expected["chat_ids"].tolist()
    stream = TextStream(tokenizer.decode, prompt)
    text = "".join(stream.push(token) for token in expected["greedy_ids"].tolist()) + stream.flush()
    # transformers was asked to keep special tokens in the text; zml leaves them out.
    assert text == str(expected["greedy_text"]).replace("<pad>", "")


def test_chat_template_renders_as_transformers_does() -> None:
    expected = golden()
    messages = [
        {"role": "user", "content": str(expected["prompt_text"])},
        {"role": "assistant", "content": "A fox."},
        {"role": "user", "content": " Why? "},
    ]
    template = ChatTemplate.open(FOLDER)
    assert template is not None
    assert template.render(messages) == str(expected["chat_text"])
