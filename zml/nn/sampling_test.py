from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.llm.sampling import Sampling
from zml.nn.sampling import sample

_VOCAB = 12
_DRAWS = 20000
# Shuffled, so that a mix-up of ranks and tokens shows.
_LOGITS = np.array([0.1, 2.0, -1.0, 1.2, 0.5, -3.0, 1.9, 0.0, 2.4, -0.5, 1.0, 0.3], np.float32)


@cache
def _sampler() -> Callable[..., jax.Array]:
    return jax.jit(jax.vmap(sample, in_axes=(None, None, 0)))


def _draw(logits: np.ndarray, sampling: Sampling, count: int = _DRAWS) -> np.ndarray:
    # Padded to one shape: one compilation serves all tests of this file.
    positions = np.arange(_DRAWS, dtype=np.int32)
    state = jax.tree.map(jnp.asarray, sampling.state())
    return np.asarray(_sampler()(jnp.asarray(logits), state, positions))[:count]


def _exact(logits: np.ndarray, s: Sampling) -> np.ndarray:
    """The distribution by the definitions: temperature, then top-k, then top-p, then min-p."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / s.temperature)
    order = np.argsort(-p, kind="stable")
    if s.top_k:
        p[order[s.top_k :]] = 0
    p /= p.sum()
    total = 0.0
    kept = np.zeros(len(p), bool)
    for token in order:
        kept[token] = total < s.top_p and p[token] > 0
        total += p[token]
    p[~kept] = 0
    p[p < s.min_p * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.5),
        Sampling(3.0),
        Sampling(1.0, top_k=1),
        Sampling(1.0, top_k=4),
        Sampling(2.0, top_k=1000),
        Sampling(1.0, top_p=0.6),
        Sampling(1.0, top_p=1e-6),
        Sampling(1.0, min_p=0.3),
        Sampling(1.0, min_p=1.0),
        Sampling(1.5, top_k=8, top_p=0.8, min_p=0.2),
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(sampling: Sampling) -> None:
    expected = _exact(_LOGITS, sampling)
    drawn = _draw(_LOGITS, sampling)
    assert drawn.dtype == np.int32
    counts = np.bincount(drawn, minlength=_VOCAB)
    assert not counts[expected == 0].any()
    # Five standard deviations of each count; the seed is fixed, so this passes always or never.
    deviation = np.sqrt(_DRAWS * expected * (1 - expected))
    assert (np.abs(counts - _DRAWS * expected) <= 5 * deviation + 1e-6).all()


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    assert (_draw(_LOGITS, Sampling(0.0), 5) == 8).all()
    tie = np.where(np.arange(_VOCAB) % 5 == 2, 1.0, 0.0).astype(np.float32)
    assert (_draw(tie, Sampling(0.0), 5) == 2).all()


def test_a_seed_repeats_its_draws_and_another_seed_does_not() -> None:
    first, again = (_draw(_LOGITS, Sampling(1.0, seed=7)) for _ in range(2))
    assert (first == again).all()
    assert (first != _draw(_LOGITS, Sampling(1.0, seed=2**32 - 1))).any()


@pytest.mark.parametrize("filters", [{}, {"top_k": 6}, {"top_p": 0.9}, {"min_p": 0.01}], ids=str)
def test_banned_tokens_are_never_drawn(filters: dict[str, float]) -> None:
    logits = np.full(_VOCAB, -np.inf, np.float32)
    logits[[3, 9]] = [1.0, 0.5]
    for temperature in (0.0, 0.7, 100.0):
        given = Sampling(temperature, **filters) if temperature else Sampling()  # type: ignore[arg-type]
        assert set(_draw(logits, given).tolist()) <= {3, 9}


@pytest.mark.parametrize("filters", [{}, {"top_k": 6}, {"top_p": 0.9}, {"min_p": 0.5}], ids=str)
@pytest.mark.parametrize("temperature", [1e-44, 1e-38, 1e-30, 1e-5])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(
    temperature: float, filters: dict[str, float]
) -> None:
    sampling = Sampling(temperature, **filters)  # type: ignore[arg-type]
    assert (_draw(_LOGITS, sampling, 200) == 8).all()
    assert (_draw(_LOGITS * 1e4, sampling, 200) == 8).all()


def test_a_high_temperature_is_uniform() -> None:
    counts = np.bincount(_draw(_LOGITS, Sampling(1e30)), minlength=_VOCAB)
    assert (np.abs(counts - _DRAWS / _VOCAB) < 5 * np.sqrt(_DRAWS / _VOCAB)).all()


@pytest.mark.parametrize(
    "sampling", [Sampling(0.0), Sampling(1.0), Sampling(1.0, top_p=0.9)], ids=str
)
def test_logits_that_are_not_numbers_give_no_token(sampling: Sampling) -> None:
    logits = _LOGITS.copy()
    logits[4] = np.nan
    assert (_draw(logits, sampling, 50) == -1).all()
    assert (_draw(np.full(_VOCAB, np.nan, np.float32), sampling, 50) == -1).all()
    assert (_draw(np.full(_VOCAB, -np.inf, np.float32), sampling, 50) == -1).all()
