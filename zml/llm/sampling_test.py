import dataclasses
import math
from typing import Any

import jax
import pytest

from zml.errors import ConfigError, UsageError
from zml.llm.sampling import Sampling, resolve
from zml.model_tree import is_leaf
from zml.nn import SamplingParameters

_CONFIG = {"do_sample": True, "temperature": 0.6, "top_k": 50, "top_p": 0.9, "min_p": 0.05}


@pytest.mark.parametrize(
    ("config", "flags", "expected"),
    [
        # What nobody asks for is greedy, also where the checkpoint names filters and does not sample.
        ({}, {}, Sampling()),
        ({"temperature": 0.6, "top_p": 0.9}, {}, Sampling()),
        (_CONFIG | {"do_sample": False}, {}, Sampling()),
        (_CONFIG | {"do_sample": None}, {}, Sampling()),
        # A flag asks for sampling: with the flag's value and no other filter.
        ({}, {"temperature": 0.5}, Sampling(0.5)),
        ({}, {"top_k": 5}, Sampling(1.0, top_k=5)),
        ({}, {"top_p": 0.5}, Sampling(1.0, top_p=0.5)),
        ({}, {"min_p": 0.0}, Sampling(1.0)),
        (_CONFIG | {"do_sample": False}, {"top_k": 5}, Sampling(1.0, top_k=5)),
        # A checkpoint that samples recommends, and flags go over it one by one.
        (_CONFIG, {}, Sampling(0.6, 50, 0.9, 0.05)),
        ({"do_sample": True}, {}, Sampling(1.0)),
        (_CONFIG, {"temperature": 1.5}, Sampling(1.5, 50, 0.9, 0.05)),
        (_CONFIG, {"top_k": 0, "top_p": 1.0}, Sampling(0.6, 0, 1.0, 0.05)),
        (_CONFIG, {"temperature": 0.0}, Sampling()),
        (_CONFIG | {"temperature": 0}, {}, Sampling()),
        (_CONFIG | {"top_k": None}, {}, Sampling(0.6, 0, 0.9, 0.05)),
        # The seed always counts.
        ({}, {"seed": 2**32 - 1}, Sampling(seed=2**32 - 1)),
        (_CONFIG, {"seed": 3}, Sampling(0.6, 50, 0.9, 0.05, seed=3)),
        # Penalties apply to greedy decoding too, and do not switch sampling on.
        ({"repetition_penalty": 1.3}, {}, Sampling(repetition_penalty=1.3)),
        (
            _CONFIG | {"repetition_penalty": 1.3},
            {"temperature": 0.0},
            Sampling(repetition_penalty=1.3),
        ),
        (_CONFIG | {"repetition_penalty": 1.3}, {}, Sampling(0.6, 50, 0.9, 0.05, 1.3)),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.0}, Sampling()),
        ({"repetition_penalty": None}, {"presence_penalty": -2}, Sampling(presence_penalty=-2)),
        ({}, {"temperature": 0.0, "frequency_penalty": 0.5}, Sampling(frequency_penalty=0.5)),
        ({}, {"top_k": 3, "repetition_penalty": 2.0}, Sampling(1.0, 3, repetition_penalty=2.0)),
        (_CONFIG | {"top_p": 0}, {}, Sampling(0.6, 50, 0, 0.05)),
        # Those are not among what transformers' generate reads.
        ({"presence_penalty": 1.0, "frequency_penalty": 1.0}, {}, Sampling()),
        (
            _CONFIG,
            {"top_k": None, "temperature": None, "min_p": None},
            Sampling(0.6, 50, 0.9, 0.05),
        ),
    ],
)
def test_flags_go_over_what_the_checkpoint_recommends(
    config: dict[str, Any], flags: dict[str, Any], expected: Sampling
) -> None:
    assert resolve(config, **flags) == expected


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"temperature": -0.1}, "--temperature=-0.1: expected at least 0, at most 100"),
        ({"temperature": math.nan}, "--temperature=nan"),
        ({"temperature": math.inf}, "--temperature=inf"),
        ({"top_p": 0.0}, "--top_p=0.0: expected more than 0, at most 1"),
        ({"top_p": 1.01}, "--top_p=1.01"),
        ({"top_p": math.nan}, "--top_p=nan"),
        ({"min_p": -1}, "--min_p=-1"),
        ({"min_p": 1.5}, "--min_p=1.5"),
        ({"top_k": -1}, "--top_k=-1"),
        ({"top_k": 2**31}, "--top_k=2147483648"),
        (
            {"repetition_penalty": 0.0},
            "--repetition_penalty=0.0: expected at least 0.01, at most 100",
        ),
        ({"repetition_penalty": math.nan}, "--repetition_penalty=nan"),
        ({"presence_penalty": 2.1}, "--presence_penalty=2.1: expected at least -2, at most 2"),
        ({"frequency_penalty": -math.inf}, "--frequency_penalty=-inf"),
        ({"seed": -1}, "--seed=-1"),
        ({"seed": 2**32}, "--seed=4294967296"),
        ({"temperature": 0.0, "top_k": 5}, "--temperature=0 is greedy .* contradicts --top_k=5"),
        ({"temperature": 0.0, "min_p": 0.1}, "contradicts --min_p=0.1"),
    ],
)
def test_flags_out_of_range_are_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve({}, **flags)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "hot"},
        {"temperature": -1},
        {"temperature": 10**400},
        {"top_k": True},
        {"top_k": 2**40},
        {"top_k": 2.5},
        {"top_p": math.nan},
        {"top_p": 1.5},
        {"min_p": [0.1]},
        {"repetition_penalty": 0},
        {"repetition_penalty": "1.1"},
        {"do_sample": "yes"},
    ],
    ids=str,
)
def test_a_generation_config_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(ConfigError, match=rf"^generation_config\.json: {key} is "):
        resolve(_CONFIG | wrong)


def test_what_the_flags_replace_is_not_looked_at() -> None:
    assert resolve(_CONFIG | {"top_k": "broken"}, top_k=3).top_k == 3


def test_parameters_are_scalars_of_the_types_that_programs_are_compiled_for() -> None:
    sampling = Sampling(0.5, 2**31 - 1, 0.9, 0.1, 1.5, -0.5, 0.25, 2**32 - 1)
    given, declared = sampling.parameters(), SamplingParameters.declare()
    tree: Any = jax.tree.structure(given)
    assert tree == jax.tree.structure(declared, is_leaf=is_leaf)
    for field in dataclasses.fields(Sampling):
        scalar = getattr(given, field.name)
        assert scalar.shape == getattr(declared, field.name).shape
        assert scalar.data.item() == pytest.approx(getattr(sampling, field.name), rel=1e-6)
    assert (given.top_k.data.item(), given.seed.data.item()) == (2**31 - 1, 2**32 - 1)


def test_what_transformers_would_do_and_zml_does_not_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    neutral = {
        "num_beams": 1,
        "typical_p": 1.0,
        "bad_words_ids": None,
        "min_length": 0,
        "use_cache": True,
    }
    assert resolve(neutral) == Sampling() and not caplog.records
    assert resolve({"num_beams": 4, "no_repeat_ngram_size": 3}) == Sampling()
    (record,) = caplog.records
    assert "num_beams=4, no_repeat_ngram_size=3, which zml does not do" in record.getMessage()
