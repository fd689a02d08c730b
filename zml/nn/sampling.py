"""Choosing the next tokens of a batch, on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zml.errors import ShapeError
from zml.model_tree import model
from zml.ops import (
    cond,
    constant,
    iota,
    memory,
    ones,
    optimization_barrier,
    random,
    vmap,
    while_,
    zeros,
)
from zml.shape import REPLICATED, Shape
from zml.tensor import Tensor

FIELDS = {
    "temperature": ("f32", 1.0), "top_k": ("i32", 0), "top_p": ("f32", 1.0), "min_p": ("f32", 0.0),
    "repetition_penalty": ("f32", 1.0), "presence_penalty": ("f32", 0.0), "frequency_penalty": ("f32", 0.0),
    "seed": ("u32", 0),
}  # fmt: skip
"""Element type of each field of SamplingParameters, and the value with which it does nothing."""

_TINY = 2.0**-126
"""The least normal float: some devices take those below it for 0."""
_INF = float("inf")
_INF_KEY = 0x7F800000
"""The bits of infinity, the greatest distance."""


@model
class SamplingParameters:
    """How each request of a batch is sampled: tensors {b}, or of rank 0 for a single sequence.

    They are arguments of the program, so that one program serves every choice. Temperature 0 is greedy, and the
    filters do not matter then; top_k 0, top_p 1 and min_p 0 switch a filter off, repetition_penalty 1, presence_penalty
    0 and frequency_penalty 0 a penalty.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    presence_penalty: Tensor
    frequency_penalty: Tensor
    seed: Tensor

    @staticmethod
    def declare(**rows: int) -> SamplingParameters:
        """To compile for: `SamplingParameters.declare(b=8)`; without axes for a single sequence."""
        return SamplingParameters(**{n: Tensor.declare(rows, t) for n, (t, _) in FIELDS.items()})

    @staticmethod
    def neutral(**rows: int) -> SamplingParameters:
        """Every field at the value with which it does nothing: plain sampling with seed 0."""
        return SamplingParameters(**{n: constant(v, rows, t) for n, (t, v) in FIELDS.items()})


@model
class TokenCounts:
    """Which tokens a sequence has, for the penalties: in its prompt (bool), and how often it generated them (i32).

    Both {b, voc}, or {voc} for a single sequence.
    """

    prompt: Tensor
    generated: Tensor

    @staticmethod
    def declare(voc: int, **rows: int) -> TokenCounts:
        """To compile for: `TokenCounts.declare(32000, b=8)`."""
        dims = {**rows, "voc": voc}
        return TokenCounts(Tensor.declare(dims, "bool"), Tensor.declare(dims, "i32"))

    @staticmethod
    def zeros(voc: int, **rows: int) -> TokenCounts:
        """Those of empty sequences."""
        dims = {**rows, "voc": voc}
        return TokenCounts(zeros(dims, "bool"), zeros(dims, "i32"))

    def mark_prompt(
        self, tokens: Tensor, count: Tensor | None = None, *, tag: str = "s"
    ) -> TokenCounts:
        """With the tokens {b, s} of a prompt, of which the first `count` {b} count (all without it)."""
        if count is not None:
            valid = iota(tokens.shape.with_dtype("i32"), tag) < count.broadcast(tokens.shape)
            # Written outside of the vocabulary, which is dropped.
            tokens = valid.select(tokens, self.prompt.dim("voc"))
        seen = self.prompt.scatter(ones(tokens.shape.with_dtype("bool")), voc=tokens)
        return TokenCounts(seen, self.generated)

    def mark_generated(self, tokens: Tensor) -> TokenCounts:
        """With one more token {b} of each sequence; one that is -1 is none."""
        one = ones(tokens.shape.with_dtype("i32"))
        return TokenCounts(self.prompt, self.generated.scatter(one, "add", voc=tokens))

    def reuse_buffer(self, old: TokenCounts) -> TokenCounts:
        """In the memory of those that the program was given, which are donated: see Tensor.reuse_buffer."""
        return TokenCounts(
            self.prompt.reuse_buffer(old.prompt), self.generated.reuse_buffer(old.generated)
        )


def sample(
    logits: Tensor,
    parameters: SamplingParameters,
    counts: TokenCounts | None,
    position: Tensor,
) -> Tensor:
    """Tokens {b} (i32) drawn from logits {b, voc} (f32) for the positions {b}; -1 where a row is no distribution.

    That is where a logit is NaN or infinite (an overflow of float16, damaged weights), or all of them are -inf. Without
    `counts` there are no penalties. A single sequence has no axis but voc.

    Penalties come first: repetition on what was seen in the prompt or generated (Keskar et al., arXiv:1909.05858),
    presence and frequency on what was generated, as in vLLM. Then temperature, top-k, top-p, min-p, in the order of
    transformers; equal logits are kept or left together. The random numbers of a row depend on its seed and position
    alone, so a sequence is repeatable, however it was cut into steps and whatever its neighbours in the batch are.
    Raises ShapeError for tags and element types that do not fit.
    """
    rows = _rows(logits, parameters, counts, position)
    if _native(logits):
        return _by_kernel(logits, parameters, counts, position)
    if counts is not None:
        logits = _penalized(logits, parameters, counts)
    largest, greedy = logits.max("voc"), logits.argmax("voc")
    random_rows = parameters.temperature.broadcast(rows).gt(0.0)

    def drawn() -> Tensor:
        # Distances from the largest, so that a tiny temperature takes the others away, and not several to infinity.
        temperature = parameters.temperature.maximum(_TINY).broadcast(logits.shape)
        distance = (largest.broadcast(logits.shape) - logits) / temperature
        # Floats of 0 and more are in the order of their bits.
        key = distance.bitcast("i32")
        limit = _within_top_k(key, parameters.top_k.broadcast(rows), random_rows)
        top_p = parameters.top_p.broadcast(rows)
        limit = _within_top_p(key, limit, distance, top_p, random_rows)
        # A share of the greatest probability is a distance, too.
        share = -parameters.min_p.broadcast(rows).log()
        kept = distance.le(share.broadcast(distance.shape)) & key.le(limit.broadcast(key.shape))
        noise = _noise(parameters.seed.broadcast(rows), position.broadcast(rows), logits)
        token = kept.select(noise - distance, -_INF).argmax("voc")
        return random_rows.select(token, greedy)

    # One program for all: what no row of the batch asks for is not computed.
    token = cond(random_rows.any(), drawn, lambda: greedy)
    return largest.is_finite().select(token, -1)


def _rows(
    logits: Tensor, parameters: SamplingParameters, counts: TokenCounts | None, position: Tensor
) -> Shape:
    """The shape of a number for each row, if all that is given fits it."""
    if "voc" not in logits.tags or logits.dtype != "f32":
        raise ShapeError(f"sample: expected logits {{.., voc}} in f32, given {logits.shape}")
    rows = logits.shape.remove("voc")
    given = {name: getattr(parameters, name) for name in FIELDS}
    for name, x in {**given, "position": position}.items():
        kind = "i32" if name == "position" else FIELDS[name][0]
        fits = x.dtype == kind and all(t in rows and x.dim(t) == rows.dim(t) for t in x.tags)
        if not fits:
            raise ShapeError(
                f"sample: {name} is {x.shape}, expected {rows.with_dtype(kind)} for logits {logits.shape}"
            )
    if counts is not None:
        for name, x, kind in (
            ("prompt", counts.prompt, "bool"),
            ("generated", counts.generated, "i32"),
        ):
            wanted = logits.shape.with_dtype(kind)
            if not x.shape.matches(wanted) or x.dtype != kind:
                raise ShapeError(f"sample: counts.{name} is {x.shape}, expected {wanted}")
    return rows


def _native(logits: Tensor) -> bool:
    """Whether the native kernel draws. Devices that have all of the logits each do the same."""
    scope = memory.marks.get()
    if scope is None or not scope.kernels:
        return False
    whole = all(cut is REPLICATED for cut in logits.shape.partitions)
    return whole or scope.sharding(logits.shape) is None


def _by_kernel(
    logits: Tensor, parameters: SamplingParameters, counts: TokenCounts | None, position: Tensor
) -> Tensor:
    from zml.kernels.cpu import sample as native

    rows = logits.shape.remove("voc")
    given = [*(getattr(parameters, name) for name in FIELDS), position]
    numbers = [x.broadcast(rows).value.reshape(-1) for x in given]
    tables = [logits] if counts is None else [logits, counts.prompt, counts.generated]
    matrix, *seen = (x.transpose(*rows.tags, "voc").value.reshape(-1, x.dim("voc")) for x in tables)
    tokens = native.sample(matrix, (seen[0], seen[1]) if seen else None, *numbers)
    return logits.derive(tokens.reshape(rows.dims), rows.tags)


def _penalized(logits: Tensor, p: SamplingParameters, counts: TokenCounts) -> Tensor:
    used = p.repetition_penalty.ne(1.0).any()
    used |= p.presence_penalty.ne(0.0).any() | p.frequency_penalty.ne(0.0).any()

    def penalize() -> Tensor:
        repetition, presence, frequency = (
            x.broadcast(logits.shape)
            for x in (p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
        )
        generated = counts.generated.gt(0)
        weaker = logits.lt(0.0).select(logits * repetition, logits / repetition)
        result = (counts.prompt | generated).select(weaker, logits)
        return (
            result - frequency * counts.generated.convert("f32") - generated.select(presence, 0.0)
        )

    return cond(used, penalize, lambda: logits)


# No logits are sorted: a bisection over the 31 bits of a distance counts what is within it, and is 10 times as fast on
# a CPU. A row is left as it is where its filter is off.


def _within_top_k(key: Tensor, top_k: Tensor, random_rows: Tensor) -> Tensor:
    """The key of each row's k-th distance, the greatest there is where top-k is off."""
    used = top_k.gt(0) & random_rows
    off = constant(_INF_KEY, top_k.shape)

    def search() -> Tensor:
        wanted = top_k.minimum(key.dim("voc"))
        return used.select(
            _least(lambda limit: _within(key, limit).convert("i32").sum("voc").ge(wanted), off),
            off,
        )

    return cond(used.any(), search, lambda: off)


def _within_top_p(
    key: Tensor, limit: Tensor, distance: Tensor, top_p: Tensor, random_rows: Tensor
) -> Tensor:
    """The key of the last distance that top-p keeps: where what is nearer has less than top-p of the probability."""
    used = top_p.lt(1.0) & random_rows

    def search() -> Tensor:
        mass = _within(key, limit).select((-distance).exp(), 0.0)
        enough = top_p * mass.sum("voc")
        beyond = _least(
            lambda k: _within(key, k - 1).select(mass, 0.0).sum("voc").ge(enough),
            constant(_INF_KEY + 1, limit.shape),
        )
        return used.select((beyond - 1).maximum(0).minimum(limit), limit)

    return cond(used.any(), search, lambda: limit)


def _within(key: Tensor, limit: Tensor) -> Tensor:
    return key.le(limit.broadcast(key.shape))


def _least(holds: Callable[[Tensor], Tensor], most: Tensor) -> Tensor:
    """The least number (i32) of each row from 0 on for which a condition holds, which then holds for greater ones.

    `most` where it holds for none below.
    """

    def halve(state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        low, high, left = state
        middle = low + (high - low).shift_right(1)
        found = holds(middle)
        return found.select(low, middle + 1), found.select(middle, high), left - 1

    start = (zeros(most.shape), most, constant(31, dtype="i32"))
    return while_(lambda state: state[2].gt(0), halve, start)[1]


def _noise(seed: Tensor, position: Tensor, logits: Tensor) -> Tensor:
    """Gumbel noise of the shape of the logits, a stream of its own for each row."""
    dims = {"voc": logits.dim("voc")}

    def row(seed: Tensor, position: Tensor) -> Tensor:
        return random.gumbel(random.State.init(seed).fold_in(position), dims)[1]

    draw: Callable[[Any, Any], Tensor] = row
    for tag in seed.tags:
        draw = vmap(draw, tag)
    # Fused into the argmax it would be computed element by element: 8 ms in place of 1 for 128 000.
    return optimization_barrier(draw(seed, position).transpose(*logits.tags))
