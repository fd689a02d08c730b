"""A session: one sequence, its KV cache, and generation over it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zml.attention import KvCache
from zml.buffer import Buffer, Slice
from zml.errors import NumericalError
from zml.llm.decoding import Decoding, Looped
from zml.llm.programs import Deployment, Programs
from zml.llm.sampling import Sampling
from zml.models import Decoder
from zml.nn import TokenCounts


@dataclass
class Stats:
    """What a generation did; times in seconds on the monotonic clock, from the moment the prompt was ready."""

    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    new_tokens: int = 0
    first_token_seconds: float = 0.0
    last_token_seconds: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens that were run (those found in the cache are not) over the time to the first token."""
        return self.prefilled_tokens / self.first_token_seconds if self.first_token_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first over the time after the first; 0 where there was only one."""
        seconds = self.last_token_seconds - self.first_token_seconds
        return (self.new_tokens - 1) / seconds if self.new_tokens > 1 and seconds > 0 else 0.0


class Session:
    """Generates over one KV cache; a prompt that begins with what the cache holds is only run from where it differs."""

    def __init__(self, deployment: Deployment, programs: Programs, weights: Decoder) -> None:
        self._deployment = deployment
        self._programs = programs
        self._weights = weights
        self._cache: KvCache = deployment.platform.zeros(
            deployment.cache(), sharding=deployment.sharding
        )
        self._cached: list[int] = []
        self._decoding: Decoding | None = None
        self._turn = 0
        self.stats = Stats()

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int | None,
        stop_ids: frozenset[int] = frozenset(),
    ) -> Iterator[int]:
        """Yields tokens as they are made, a stop id last, until one, `max_new_tokens`, or the context's end.

        Raises UsageError for an empty prompt, an id outside the vocabulary, and a prompt that leaves no room for one
        token. The iterator may be dropped at any time; the session stays usable and keeps what it had computed. The
        next generation ends it. It raises NumericalError where the model's logits are no numbers.
        """
        prompt = list(prompt)
        self._deployment.check_prompt(prompt)
        return self._run(prompt, sampling, max_new_tokens, stop_ids)

    def _run(
        self,
        prompt: list[int],
        sampling: Sampling,
        max_new_tokens: int | None,
        stop_ids: frozenset[int],
    ) -> Iterator[int]:
        self._end()
        self._turn += 1
        turn = self._turn
        began = time.perf_counter()
        stats = self.stats = Stats(prompt_tokens=len(prompt))
        parameters = self._put(sampling.parameters())
        first = self._prefill(prompt, parameters)

        budget = self._deployment.length - len(prompt)
        if max_new_tokens is not None:
            budget = min(budget, max_new_tokens)
        if not budget:
            return
        kind = Looped if self._deployment.loops else Decoding
        decoding = kind(
            self._programs.ready(1, self._weights), self._put, parameters, (*first, self._cache)
        )
        self._decoding = decoding
        before = -1
        try:
            for value in decoding.values(budget - 1):
                if value < 0:
                    self._cached.clear()
                    raise NumericalError(
                        f"the model's logits at position {len(prompt) + stats.new_tokens} are not numbers: either "
                        f"{self._deployment.dtype.numpy.name} is too narrow for it (try --dtype=float32) or its "
                        "weights are damaged"
                    )
                stats.last_token_seconds = time.perf_counter() - began
                stats.new_tokens += 1
                if stats.new_tokens == 1:
                    stats.first_token_seconds = stats.last_token_seconds
                else:
                    # This token is here, so the one before was run.
                    self._cached.append(before)
                before = value
                yield value
                if self._turn != turn:
                    raise RuntimeError("a later generation took over this session's KV cache")
                if value in stop_ids:
                    return
        finally:
            if self._turn == turn:
                self._end()

    def _end(self) -> None:
        """Ends what is being decoded, if anything, and takes the KV cache back."""
        decoding, self._decoding = self._decoding, None
        if decoding is not None:
            self._cache = decoding.cache
            decoding.close()

    def _prefill(self, prompt: list[int], parameters: Any) -> tuple[Buffer, Buffer, Any]:
        # At least the last token is run, for its logits.
        start = min(_common_prefix(self._cached, prompt), len(prompt) - 1)
        while True:
            bucket = self._deployment.bucket(len(prompt) - start)
            # A chunk must not reach over the cache's end: it begins earlier then and runs some tokens again.
            start = min(start, self._deployment.length - bucket)
            chunk = prompt[start : start + bucket]
            tokens = np.zeros(bucket, np.int32)
            tokens[: len(chunk)] = chunk
            # What the cache held from here on is overwritten, so it is forgotten before the call, not after.
            del self._cached[start:]
            token, position, counts, self._cache = self._programs.ready(bucket, self._weights)(
                self._cache,
                *self._put(
                    (Slice(tokens, ("s",)), Slice(np.int32(start)), Slice(np.int32(len(chunk))))
                ),
                parameters,
                # Only the token after the last chunk is drawn for good.
                self._counts(prompt),
            )
            self._cached += chunk
            self.stats.prefilled_tokens += len(chunk)
            start += len(chunk)
            if start == len(prompt):
                return token, position, counts

    def _counts(self, prompt: list[int]) -> Any:
        vocab = self._deployment.config.vocab_size
        seen = np.zeros(vocab, np.bool_)
        seen[prompt] = True
        counts: list[Any] = [Slice(x, ("voc",)) for x in (seen, np.zeros(vocab, np.int32))]
        return self._put(TokenCounts(*counts))

    def _put(self, tree: Any) -> Any:
        return self._deployment.platform.put_tree(tree, sharding=self._deployment.sharding)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
