"""Text from tokens one at a time, whole characters only, up to a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns token ids into text as they come; the pieces add up to what decoding all of them at once gives.

    A character's bytes may be spread over several tokens, and a token's text may depend on the one before (a leading
    space that SentencePiece drops at the beginning). So each token is decoded together with a window of tokens before
    it, and text that ends in an unfinished character waits for the next token.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        """`context`: the prompt's ids, of which only the last few matter."""
        self._decode = decode
        self._ids = list(context)[-4:]
        self._begin = 0  # the window's first token
        self._done = len(self._ids)  # tokens before this one have been given out

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._ids.append(token)
        before = self._decode(self._ids[self._begin : self._done])
        text = self._decode(self._ids[self._begin :])
        if len(text) <= len(before) or text.endswith(_REPLACEMENT):
            return ""
        self._begin, self._done = self._done, len(self._ids)
        return text[len(before) :]

    def flush(self) -> str:
        """What is left at the end: the bytes of an unfinished character, as U+FFFD."""
        before = self._decode(self._ids[self._begin : self._done])
        text = self._decode(self._ids[self._begin :])
        self._begin, self._done = self._done, len(self._ids)
        return text[len(before) :]


class StopFilter:
    """Ends a text at the first of some stop strings, which may be spread over pieces and are not part of it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that can be given out: all that cannot be the beginning of a stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of text that is a proper beginning of stop."""
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0
    )
