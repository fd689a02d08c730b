"""A byte-level BPE tokenizer of 300 tokens with a chat template, for one of the golden checkpoints."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

VOCAB_SIZE = 300
_SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
_TEXT = "The quick brown fox jumps over the lazy dog. How much wood would a woodchuck chuck? "
# Long enough to pass through merges, single bytes and characters of two, three and four bytes.
PROMPT = "The woodchuck's dog: naïve, 日本 🦊 42?"
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write(folder: Path) -> dict[str, np.ndarray]:
    """Writes tokenizer.json and tokenizer_config.json; returns what transformers makes of PROMPT with them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 10, trainer)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    reader = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    messages = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "A fox."},
        {"role": "user", "content": " Why? "},
    ]
    chat = reader.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return {
        "prompt_text": np.array(PROMPT),
        "prompt_ids": np.array(reader(PROMPT, add_special_tokens=False).input_ids, np.int32),
        "chat_text": np.array(chat),
        "chat_ids": np.array(reader(chat, add_special_tokens=False).input_ids, np.int32),
    }


def decode(folder: Path, tokens: list[int]) -> str:
    """The text of `tokens`, as transformers decodes it."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True).decode(tokens)
