"""A checkpoint's tokenizer.json, run by the tokenizers library."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend

from zml.errors import CheckpointError, UsageError
from zml.vfs import Folder


class Tokenizer:
    """Encodes and decodes; special tokens are left out of decoded text."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @staticmethod
    def open(folder: Folder | str | Path, vocab_size: int) -> "Tokenizer":
        """Reads tokenizer.json. Raises CheckpointError where it is missing, damaged, or has ids beyond the model's
        `vocab_size` embeddings."""
        folder = Folder.of(folder)
        path = folder.join("tokenizer.json")
        content = folder.need(
            "tokenizer.json",
            "zml reads tokenizers in the tokenizer.json format. Without one, give the prompt as --prompt_token_ids",
        )
        try:
            backend = Backend.from_buffer(content)
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise CheckpointError(f"{path}: not a tokenizer: {error!s:.300}") from error
        backend.no_truncation()
        backend.no_padding()
        largest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocab_size:
            raise CheckpointError(
                f"{path}: has token ids up to {largest}, but the model's vocab_size is {vocab_size}: "
                "tokenizer and config.json are not of the same model"
            )
        return Tokenizer(backend)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids. Special tokens written in the text are always recognised; `add_special_tokens` puts the
        tokenizer's own (such as BOS) around it, which a chat template has already done.

        Raises UsageError for text that is not Unicode: bytes of a command line or of stdin that are not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text is not valid UTF-8: {text[error.start : error.end]!r:.40} at character {error.start}"
            ) from error
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are not UTF-8 come out as U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))
