"""Text to token ids and back, by the checkpoint's own tokenizer.json."""

from zml.tokenizer.stream import StopFilter, TextStream
from zml.tokenizer.tokenizer import Tokenizer

__all__ = ["StopFilter", "TextStream", "Tokenizer"]
