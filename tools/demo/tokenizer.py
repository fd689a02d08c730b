"""Trains the demo checkpoint's byte-level BPE tokenizer and writes the files that describe it.

    python -m tools.demo.tokenizer --work_dir=DIR

reads DIR/train.jsonl (see corpus.py) and writes tokenizer.json, tokenizer_config.json and
chat_template.jinja into DIR/tokenizer.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
BOS, USER, ASSISTANT, END = "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = [BOS, USER, ASSISTANT, END]

# Words keep the space before them; digits stand alone; the rest splits where its kind changes.
_WORD_PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# One message a line; a system message has no place in what the model was trained on, and is left out.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] == 'user' -%}
    {{- '<|user|>' + message['content'] | trim + '<|end|>' -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<|assistant|>' + message['content'] | trim + '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
{%- endif -%}
"""


def conversation_text(messages: list[str]) -> str:
    """What the chat template makes of a conversation; one message alone is plain text."""
    if len(messages) == 1:
        return BOS + messages[0] + END
    roles = [USER, ASSISTANT] * (len(messages) // 2)
    return BOS + "".join(role + text + END for role, text in zip(roles, messages, strict=True))


def train(texts: Iterator[str]) -> Tokenizer:
    """Learns the vocabulary from plain texts, without special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_WORD_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes the three files in Hugging Face layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")


def main() -> None:
    """Trains on the training split and writes the files."""
    parser = argparse.ArgumentParser(description="Trains the demo checkpoint's tokenizer.")
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--max_length", type=int, default=512)
    flags = parser.parse_args()
    lines = (flags.work_dir / "train.jsonl").read_text("utf-8").splitlines()
    messages = [message for line in lines for message in json.loads(line)]
    write(train(iter(messages)), flags.work_dir / "tokenizer", flags.max_length)


if __name__ == "__main__":
    main()
