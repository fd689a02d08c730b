import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from zml.dtypes import DType
from zml.errors import ShapeError
from zml.model_tree import leaves
from zml.nn.sampling import FIELDS, SamplingParameters, TokenCounts, sample
from zml.tensor import Tensor

_VOCAB = 12
_DRAWS = 20000
# Shuffled, so that a mix-up of ranks and tokens shows.
_LOGITS = np.array([0.1, 2.0, -1.0, 1.2, 0.5, -3.0, 1.9, 0.0, 2.4, -0.5, 1.0, 0.3], np.float32)
type Options = dict[str, float]
type Array = np.ndarray[Any, Any]


@cache
def _sampler() -> Callable[..., Tensor]:
    return jax.jit(sample)


def _parameters(*rows: Options) -> SamplingParameters:
    """A row for each request, with greedy as the default."""
    columns = {
        name: np.array(
            [{"temperature": 0.0, **row}.get(name, off) for row in rows], DType.of(kind).numpy
        )
        for name, (kind, off) in FIELDS.items()
    }
    return SamplingParameters(**{name: Tensor(value, ("b",)) for name, value in columns.items()})


def _run(
    logits: Array, rows: list[Options], positions: Array, counts: TokenCounts | None = None
) -> Array:
    got = _sampler()(
        Tensor(logits, ("b", "voc")),
        _parameters(*rows),
        counts,
        Tensor(positions.astype(np.int32), ("b",)),
    )
    assert (got.tags, got.dtype) == (("b",), "i32")
    return np.asarray(got.value)


def _draw(logits: Array, options: Options, count: int = _DRAWS) -> Array:
    """Draws at the positions 0, 1, ...: rows of a batch of one shape, so that one compilation serves all."""
    batch = np.broadcast_to(logits, (_DRAWS, len(logits)))
    got = _run(batch, [options] * _DRAWS, np.arange(_DRAWS))
    return got[:count]


def _exact(logits: Array, options: Options) -> Array:
    """The distribution by the definitions: temperature, then top-k, then top-p, then min-p."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / options["temperature"])
    order = np.argsort(-p, kind="stable")
    if top_k := int(options.get("top_k", 0)):
        p[order[top_k:]] = 0
    p /= p.sum()
    total = 0.0
    kept = np.zeros(len(p), bool)
    for token in order:
        kept[token] = total < options.get("top_p", 1.0) and p[token] > 0
        total += p[token]
    p[~kept] = 0
    p[p < options.get("min_p", 0.0) * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 1},
        {"top_k": 4},
        {"top_k": 1000, "temperature": 2.0},
        {"top_p": 0.6},
        {"top_p": 1e-6},
        {"min_p": 0.3},
        {"min_p": 1.0},
        {"temperature": 1.5, "top_k": 8, "top_p": 0.8, "min_p": 0.2},
        {"top_k": 3, "top_p": 0.7, "seed": 5},
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(options: Options) -> None:
    options = {"temperature": 1.0, **options}
    expected = _exact(_LOGITS, options)
    counts = np.bincount(_draw(_LOGITS, options), minlength=_VOCAB)
    assert not counts[expected == 0].any()
    # Five standard deviations of each count; the seed is fixed, so this passes always or never.
    deviation = np.sqrt(_DRAWS * expected * (1 - expected))
    assert (np.abs(counts - _DRAWS * expected) <= 5 * deviation + 1e-6).all()


@pytest.mark.parametrize("filters", [{"top_k": 2}, {"top_p": 0.5}], ids=str)
def test_equal_logits_stay_together(filters: Options) -> None:
    tie = np.array([1.0, 2.0, 1.0, 0.5, 1.0], np.float32)
    rows: list[Options] = [{"temperature": 1.0, **filters}] * 500
    drawn = _run(np.broadcast_to(tie, (500, 5)), rows, np.arange(500))
    assert set(drawn.tolist()) == {0, 1, 2, 4}


def test_filters_keep_exactly_what_they_should_of_a_large_vocabulary() -> None:
    rng = np.random.default_rng()
    logits = rng.normal(size=300).astype(np.float32)
    order = np.argsort(-logits)
    p = np.exp(logits[order].astype(np.float64))
    before = (np.cumsum(p) - p) / p.sum()
    for options, kept in (
        ({"top_k": 17}, 17),
        ({"top_k": 299}, 299),
        ({"top_p": 0.3}, (before < 0.3).sum()),
        ({"min_p": 0.4}, (p / p[0] >= 0.4).sum()),
    ):
        rows: list[Options] = [{"temperature": 1.0, **options}] * 20000
        drawn = _run(np.broadcast_to(logits, (20000, 300)), rows, np.arange(20000))
        ranks = np.flatnonzero(np.bincount(np.argsort(order)[drawn], minlength=300))
        assert ranks.max() < kept, (options, kept)
        assert ranks.max() >= 0.9 * kept - 2, (options, kept)


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    assert (_draw(_LOGITS, {}, 5) == 8).all()
    tie = np.where(np.arange(_VOCAB) % 5 == 2, 1.0, 0.0).astype(np.float32)
    assert (_draw(tie, {}, 5) == 2).all()


def test_a_seed_repeats_its_draws_and_another_seed_does_not() -> None:
    first, again = (_draw(_LOGITS, {"temperature": 1.0, "seed": 7}) for _ in range(2))
    assert (first == again).all()
    assert (first != _draw(_LOGITS, {"temperature": 1.0, "seed": 2**32 - 1})).any()


_MIXED: list[Options] = [
    {},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_k": 5, "seed": 2},
    {"temperature": 1.3, "top_p": 0.8, "seed": 3},
    {"temperature": 1.0, "min_p": 0.1, "seed": 4},
    {"temperature": 1.0, "top_k": 4, "top_p": 0.9, "min_p": 0.05, "seed": 5},
    {"temperature": 0.0, "top_k": 3},
]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng()
    logits = rng.normal(size=(len(_MIXED), 50)).astype(np.float32) * 2
    positions = rng.integers(0, 10000, len(_MIXED))
    together = _run(logits, _MIXED, positions)
    order = rng.permutation(len(_MIXED))
    shuffled = _run(logits[order], [_MIXED[i] for i in order], positions[order])
    np.testing.assert_array_equal(shuffled, together[order])
    for i, options in enumerate(_MIXED):
        # Alone it takes the cheapest way that serves it.
        alone = _run(logits[i : i + 1], [options], positions[i : i + 1])
        assert alone[0] == together[i], options


def test_a_single_sequence_has_no_batch_axis() -> None:
    options = {"temperature": 0.9, "top_k": 6, "top_p": 0.9, "seed": 11, "presence_penalty": 0.5}
    row = _parameters(options)
    single = SamplingParameters(**{n: getattr(row, n).choose(b=0) for n in FIELDS})
    token = Tensor(np.int32(8), ())
    counts = TokenCounts.zeros(_VOCAB).mark_generated(token)
    batched = TokenCounts(counts.prompt.insert("b"), counts.generated.insert("b"))
    for position in range(5):
        got = _sampler()(Tensor(_LOGITS, ("voc",)), single, counts, Tensor(np.int32(position), ()))
        assert (got.tags, got.dtype) == ((), "i32")
        assert int(got.value) == _run(_LOGITS[None], [options], np.array([position]), batched)[0]


@pytest.mark.parametrize("filters", [{}, {"top_k": 6}, {"top_p": 0.9}, {"min_p": 0.01}], ids=str)
def test_banned_tokens_are_never_drawn(filters: Options) -> None:
    logits = np.full(_VOCAB, -np.inf, np.float32)
    logits[[3, 9]] = [1.0, 0.5]
    for temperature in (0.0, 0.7, 100.0):
        assert set(_draw(logits, {"temperature": temperature, **filters}).tolist()) <= {3, 9}


@pytest.mark.parametrize("filters", [{}, {"top_k": 6}, {"top_p": 0.9}, {"min_p": 0.5}], ids=str)
@pytest.mark.parametrize("temperature", [1e-44, 1e-38, 1e-30, 1e-5])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(
    temperature: float, filters: Options
) -> None:
    options = {"temperature": temperature, **filters}
    assert (_draw(_LOGITS, options, 200) == 8).all()
    assert (_draw(_LOGITS * 1e4, options, 200) == 8).all()


def test_a_high_temperature_is_uniform() -> None:
    counts = np.bincount(_draw(_LOGITS, {"temperature": 1e30}), minlength=_VOCAB)
    assert (np.abs(counts - _DRAWS / _VOCAB) < 5 * np.sqrt(_DRAWS / _VOCAB)).all()


def test_logits_that_are_no_numbers_give_no_token_in_their_row() -> None:
    rows = [options for options in _MIXED for _ in range(5)]
    logits = np.broadcast_to(_LOGITS, (len(rows), _VOCAB)).copy()
    logits[0::5, 4] = np.nan
    logits[1::5] = np.nan
    logits[2::5] = -np.inf
    logits[3::5, 2] = np.inf
    got = _run(logits, rows, np.arange(len(rows)))
    bad = np.arange(len(rows)) % 5 < 4
    assert (got[bad] == -1).all()
    assert (got[~bad] >= 0).all()


def _penalized(logits: Array, prompt: list[int], generated: list[int], options: Options) -> Array:
    """By the definitions of vLLM and transformers, one token at a time, in float64."""
    out = logits.astype(np.float64)
    for token in set(prompt) | set(generated):
        penalty = options.get("repetition_penalty", 1.0)
        out[token] = out[token] * penalty if out[token] < 0 else out[token] / penalty
    for token in set(generated):
        out[token] -= options.get("presence_penalty", 0.0)
        out[token] -= options.get("frequency_penalty", 0.0) * generated.count(token)
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.8},
        {"repetition_penalty": 0.6},
        {"presence_penalty": 1.1},
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -0.7},
        {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2},
    ],
    ids=str,
)
def test_penalties_follow_their_definitions(options: Options) -> None:
    rng = np.random.default_rng()
    prompt, generated = (rng.integers(0, _VOCAB, n).tolist() for n in (4, 7))
    counts = TokenCounts.zeros(_VOCAB, b=1).mark_prompt(
        Tensor(np.array([prompt], np.int32), ("b", "s"))
    )
    for token in generated:
        counts = counts.mark_generated(Tensor(np.array([token], np.int32), ("b",)))
    expected = _penalized(_LOGITS, prompt, generated, options)
    # All of the values: one after another is banned, and the next best comes out. Near ties may go either way.
    left = _LOGITS.copy()
    for _ in range(_VOCAB):
        token = _run(left[None], [options], np.array([0]), counts)[0]
        assert expected[token] == pytest.approx(expected.max(), abs=1e-5)
        left[token] = expected[token] = -np.inf


def test_penalties_of_a_row_leave_the_others() -> None:
    counts = TokenCounts.zeros(_VOCAB, b=3).mark_generated(
        Tensor(np.array([8, 8, 8], np.int32), ("b",))
    )
    rows: list[Options] = [{}, {"presence_penalty": 2.0}, {"frequency_penalty": 0.1}]
    assert _run(np.stack([_LOGITS] * 3), rows, np.zeros(3), counts).tolist() == [8, 1, 8]
    assert _run(np.stack([_LOGITS] * 3), rows, np.zeros(3)).tolist() == [8, 8, 8]


def test_counts_take_what_counts() -> None:
    tokens = np.array([[1, 2, 1, 5], [3, 0, 0, 0]], np.int32)
    counts = TokenCounts.zeros(6, b=2).mark_prompt(
        Tensor(tokens, ("b", "s")), Tensor(np.array([3, 1], np.int32), ("b",))
    )
    counts = counts.mark_prompt(Tensor(np.array([[4], [5]], np.int32), ("b", "t")), tag="t")
    np.testing.assert_array_equal(counts.prompt.value, [[0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]])
    for generated in ([2, -1], [2, 0], [-1, 0]):
        counts = counts.mark_generated(Tensor(np.array(generated, np.int32), ("b",)))
    np.testing.assert_array_equal(counts.generated.value, [[0, 0, 2, 0, 0, 0], [2, 0, 0, 0, 0, 0]])


def test_declared() -> None:
    assert [str(x.shape) for x in leaves(SamplingParameters.declare(b=2))] == [
        *["{b=2,f32}", "{b=2,i32}"], *["{b=2,f32}"] * 5, "{b=2,u32}",
    ]  # fmt: skip
    assert [x.rank for x in leaves(SamplingParameters.neutral())] == [0] * 8
    assert [str(x.shape) for x in leaves(TokenCounts.declare(5, b=2))] == [
        "{b=2,voc=5,bool}", "{b=2,voc=5,i32}",
    ]  # fmt: skip


def test_what_does_not_fit_is_named() -> None:
    logits, good = Tensor(_LOGITS[None], ("b", "voc")), _parameters({})
    position = Tensor(np.zeros(1, np.int32), ("b",))
    seed = Tensor(np.zeros(1, np.int32), ("b",))
    two = _parameters({}, {})
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((logits.convert("bf16"), good, None, position), "in f32, given {b=1,voc=12,bf16}"),
        ((logits.rename(voc="v"), good, None, position), "given {b=1,v=12,f32}"),
        ((logits, two, None, position), "temperature is {b=2,f32}, expected {b=1,f32}"),
        ((logits, dataclasses.replace(good, seed=seed), None, position), "seed is {b=1,i32}"),
        ((logits, good, None, position.rename(b="c")), "position is {c=1,i32}"),
        ((logits, good, TokenCounts.zeros(11, b=1), position), "prompt is {b=1,voc=11,bool}"),
    ]
    for arguments, said in wrong:
        with pytest.raises(ShapeError) as error:
            sample(*arguments)
        assert said in str(error.value)


def _always_run(jaxpr: Any) -> Iterator[str]:
    """The primitives outside of the branches of conditions."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name != "cond":
            for part in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(part, "jaxpr", part)
                yield from _always_run(inner) if hasattr(inner, "eqns") else ()


def test_what_nobody_asks_for_is_not_computed() -> None:
    # The search for the limits and the random numbers stand in branches of their own.
    logits, position = Tensor(_LOGITS[None], ("b", "voc")), Tensor(np.zeros(1, np.int32), ("b",))
    traced = jax.make_jaxpr(sample)(logits, _parameters({}), None, position)
    assert "while[" in str(traced) and "shift_right_logical" in str(traced)
    always = set(_always_run(traced.jaxpr))
    assert {"argmax", "cond"} <= always
    assert not {"while", "shift_right_logical", "exp", "log"} & always
