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
        # Eight tokens: a character has four bytes at most, so one begins and ends among them.
        self._ids = list(context)[-8:]
        self._begin = 0  # the window's first token
        self._done = len(self._ids)  # tokens before this one have been given out
        # A context that ends within a character leaves its bytes to the generation that completes it.
        ends = range(len(self._ids), max(len(self._ids) - 4, -1), -1)
        whole = (end for end in ends if not self._text(0, end).endswith(_REPLACEMENT))
        self._done = next(whole, self._done)
        self._pushed = False

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._ids.append(token)
        self._pushed = True
        text = self._rest()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        self._begin, self._done = self._done, len(self._ids)
        return text

    def flush(self) -> str:
        """What is left at the end: the bytes of an unfinished character, as U+FFFD."""
        text = self._rest() if self._pushed else ""
        self._begin, self._done = self._done, len(self._ids)
        return text

    def _text(self, begin: int, end: int) -> str:
        return self._decode(self._ids[begin:end])

    def _rest(self) -> str:
        before = self._text(self._begin, self._done)
        return self._text(self._begin, len(self._ids))[len(before) :]


class StopFilter:
    """Ends a text before the stop string that is complete first; it may be spread over pieces.

    Of several that are complete at the same character the longest counts. So how a text is cut changes nothing.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that can be given out: all that cannot be the beginning of a stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
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
