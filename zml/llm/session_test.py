import dataclasses
import os
import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from zml.compile import Runner
from zml.errors import NumericalError, UsageError
from zml.llm.programs import Deployment, Programs
from zml.llm.sampling import Sampling
from zml.models import Decoder
from zml.platform import CpuOptions, Platform
from zml.tensor import Tensor
from zml.testing import tiny
from zml.testing.tiny import TinyModel

_GREEDY = Sampling()
_LENGTH = 40  # prefill has one bucket then, of 16 tokens


@cache
def _tiny() -> TinyModel:
    return TinyModel(Platform.init("cpu"), _LENGTH)


@cache
def _forward() -> Runner:
    made = _tiny()
    tokens = Tensor.declare({"s": _LENGTH}, "i32")
    exe = made.deployment.platform.compile(Decoder.forward, made.deployment.model, tokens)
    return exe.bake(made.weights)


def _logits(ids: list[int]) -> Any:
    """The logits after the last token, of a model without a cache."""
    padded = np.zeros(_LENGTH, np.int32)
    padded[: len(ids)] = ids
    tokens = _tiny().deployment.platform.put(padded, ("s",))
    return _forward()(tokens).numpy()[len(ids) - 1]


def _reference(prompt: list[int], count: int, repetition: float = 1.0) -> list[int]:
    """Greedy decoding without a cache: the whole sequence is run for every token."""
    ids = list(prompt)
    for _ in range(count):
        logits = _logits(ids).astype(np.float64)
        seen = list(set(ids))
        logits[seen] = np.where(
            logits[seen] < 0, logits[seen] * repetition, logits[seen] / repetition
        )
        ids.append(int(np.argmax(logits)))
    return ids[len(prompt) :]


def _prompt(rng: random.Random, size: int) -> list[int]:
    return [rng.randrange(_tiny().config.vocab_size) for _ in range(size)]


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 33, 38, 39])
def test_greedy_decoding_is_that_of_the_whole_sequence(size: int) -> None:
    prompt = _prompt(random.Random(size), size)
    session = _tiny().session()
    tokens = list(session.generate(prompt, _GREEDY, 5))
    assert tokens == _reference(prompt, min(5, _LENGTH - size))
    assert (session.stats.prompt_tokens, session.stats.new_tokens) == (size, len(tokens))


@pytest.mark.parametrize("repetition", [1.5, 0.7])
def test_a_repetition_penalty_is_that_of_the_paper(repetition: float) -> None:
    prompt = _prompt(random.Random(4), 20)
    sampling = Sampling(repetition_penalty=repetition)
    tokens = list(_tiny().session().generate(prompt, sampling, 12))
    assert tokens == _reference(prompt, 12, repetition) != _reference(prompt, 12)


@pytest.mark.parametrize(
    "samplings",
    [
        (Sampling(presence_penalty=-2.0), Sampling(presence_penalty=2.0)),
        (Sampling(frequency_penalty=-2.0), Sampling(frequency_penalty=2.0)),
    ],
)
def test_penalties_of_generated_tokens_count_from_the_first(
    samplings: tuple[Sampling, Sampling],
) -> None:
    """A bonus of 2 that grows with each use ends in one token over and over; a malus makes all differ."""
    prompt = _prompt(random.Random(5), 3)
    plain = list(_tiny().session().generate(prompt, _GREEDY, 30))
    bonus, malus = (
        list(_tiny().session().generate(prompt, sampling, 30)) for sampling in samplings
    )
    assert bonus[0] == plain[0] == malus[0]
    assert len(set(bonus)) < len(set(malus))


def test_it_ends_where_the_context_is_full() -> None:
    prompt = _prompt(random.Random(0), 30)
    tokens = list(_tiny().session().generate(prompt, _GREEDY, None))
    assert len(tokens) == _LENGTH - 30
    assert tokens == _reference(prompt, 10)


@pytest.mark.parametrize("seed", range(8))
def test_a_reused_session_gives_what_a_fresh_one_gives(seed: int) -> None:
    rng = random.Random(seed)
    session = _tiny().session()
    history: list[int] = []
    for turn in range(5):
        # A prompt keeps a random part of what the cache holds, as an edited or continued chat does.
        kept = history[: rng.randint(0, min(len(history), 30))]
        prompt = kept + _prompt(rng, rng.randint(1, _LENGTH - 1 - len(kept)))
        sampling = rng.choice([_GREEDY, Sampling(1.0, top_k=rng.choice([0, 20]), seed=turn)])
        take = rng.randint(0, 8)
        expected = list(_tiny().session().generate(prompt, sampling, take))
        if rng.random() < 0.3:  # dropped after some tokens
            dropped = session.generate(prompt, sampling, None)
            tokens = [token for token, _ in zip(dropped, range(take), strict=False)]
        else:
            tokens = list(session.generate(prompt, sampling, take))
        assert tokens == expected
        history = prompt + tokens


@pytest.mark.parametrize("sampling", [_GREEDY, Sampling(0.9, top_k=30, seed=3)])
def test_a_loop_on_the_device_gives_the_tokens_of_single_steps(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = _prompt(random.Random(6), 5)
    looped = list(_tiny().session().generate(prompt, sampling, 30))
    monkeypatch.setattr(Deployment, "loops", False)
    stepped = TinyModel(_tiny().deployment.platform, _LENGTH).session()
    assert list(stepped.generate(prompt, sampling, 30)) == looped


def test_an_answer_that_is_dropped_leaves_nothing_open() -> None:
    before, session = len(os.listdir("/proc/self/fd")), _tiny().session()  # noqa: PTH208
    for take in (1, 2, 9, 20):
        answer = session.generate([1, 2, 3], _GREEDY, None)
        for _ in range(take):
            next(answer)
        answer.close()  # type: ignore[attr-defined]  # a generator
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_known_prefix_is_not_run_again() -> None:
    session = _tiny().session()
    prompt = _prompt(random.Random(1), 12)
    answer = list(session.generate(prompt, _GREEDY, 4))
    assert session.stats.prefilled_tokens == 12
    # The last token was never an input, so it is not in the cache.
    list(session.generate([*prompt, *answer, 7, 8], _GREEDY, 1))
    assert session.stats.prefilled_tokens == 3
    list(session.generate([*prompt, *answer, 7, 8], _GREEDY, 1))
    assert session.stats.prefilled_tokens == 1


def test_a_stop_id_is_yielded_last_and_only_where_asked() -> None:
    prompt = _prompt(random.Random(2), 6)
    whole = list(_tiny().session().generate(prompt, _GREEDY, 8))
    stop = whole[3]
    session = _tiny().session()
    assert (
        list(session.generate(prompt, _GREEDY, 8, frozenset({stop})))
        == whole[: whole.index(stop) + 1]
    )
    assert list(session.generate(prompt, _GREEDY, 8)) == whole


def test_no_token_asked_for_is_none_given() -> None:
    session = _tiny().session()
    assert list(session.generate([1, 2], _GREEDY, 0)) == []
    assert list(session.generate([1, 2, 3], _GREEDY, 2)) == _reference([1, 2, 3], 2)


def test_a_generation_ends_when_the_next_one_begins() -> None:
    session = _tiny().session()
    first = session.generate([1, 2], _GREEDY, 8)
    next(first)
    assert list(session.generate([5], _GREEDY, 2)) == _reference([5], 2)
    with pytest.raises(RuntimeError, match="later generation"):
        next(first)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "the prompt is empty"),
        ([0, -1], "token id -1 is outside the model's vocabulary of 320"),
        ([320], "token id 320 is outside"),
        ([1] * 40, "the prompt has 40 tokens, the context .--seqlen=40. has room for 39"),
    ],
)
def test_a_prompt_that_cannot_be_run_is_refused_at_the_call(prompt: list[int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _tiny().session().generate(prompt, _GREEDY, 1)


def test_logits_that_are_no_numbers_are_an_error_and_not_a_text() -> None:
    arrays = tiny.weights()
    arrays["model.norm.weight"][0] = np.nan
    broken = TinyModel(_tiny().deployment.platform, _LENGTH, arrays=arrays).session()
    for _ in range(2):
        with pytest.raises(NumericalError, match=r"position 3 are not numbers: .*--dtype=float32"):
            list(broken.generate([1, 2, 3], _GREEDY, 4))


def test_two_devices_give_the_tokens_of_one() -> None:
    two = TinyModel(Platform.init("cpu", CpuOptions(2)), _LENGTH)
    prompt = _prompt(random.Random(3), 20)
    assert list(two.session().generate(prompt, _GREEDY, 8)) == _reference(prompt, 8)
    cache = two.deployment.platform.zeros(two.deployment.cache())
    assert cache.k[0].array.addressable_shards[0].data.shape == (1, _LENGTH, 8)


@pytest.mark.parametrize(
    ("length", "buckets"),
    [(1, (1,)), (15, (15,)), (16, (16,)), (100, (16, 64)), (999, (16, 64, 256))],
)
def test_buckets_fit_the_context(length: int, buckets: tuple[int, ...]) -> None:
    deployment = dataclasses.replace(_tiny().deployment, length=length)
    assert deployment.buckets() == buckets


def test_a_program_is_compiled_once() -> None:
    programs = Programs(_tiny().deployment)
    assert programs.compiled == {}
    assert programs.compile(1) is programs.compile(1)
    assert list(programs.compiled) == ["decode"]
    weights = _tiny().weights
    assert programs.ready(1, weights) is programs.ready(1, weights)


def test_speeds_of_nothing_are_zero() -> None:
    stats = _tiny().session().stats
    assert (stats.prefill_tokens_per_second, stats.decode_tokens_per_second) == (0, 0)
