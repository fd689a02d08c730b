import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from zml.errors import ConfigError
from zml.nn.rope import Rope, rotate

_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


def _plain(theta: float, dim: int) -> list[float]:
    return [1.0 / theta ** (2 * i / dim) for i in range(dim // 2)]


def _llama3(f: float) -> float:
    """As Meta's reference code says it, by wavelength."""
    wavelength = 2 * math.pi / f
    if wavelength < 8192 / 4.0:
        return f
    if wavelength > 8192 / 1.0:
        return f / 8.0
    smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
    return (1 - smooth) * f / 8.0 + smooth * f


def _yarn(theta: float, dim: int) -> list[float]:
    """As the paper's reference code says it: a ramp from dimension `low` to `high`."""

    def find(turns: float) -> float:
        return dim * math.log(2048 / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(find(32)), 0), min(math.ceil(find(1)), dim - 1)
    ramp = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(dim // 2)]
    return [
        f / 4.0 * r + f * (1 - r) for f, r in zip(_plain(theta, dim), ramp, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_each_type_has_its_frequencies(theta: float) -> None:
    plain = _plain(theta, 64)
    for parameters, expected in [
        ({}, plain),
        ({"type": "default"}, plain),
        ({"type": "linear", "factor": 4}, [f / 4 for f in plain]),
        (_LLAMA3, [_llama3(f) for f in plain]),
        (_YARN, _yarn(theta, 64)),
    ]:
        config = {"rope_theta": theta, "rope_scaling": parameters, "max_position_embeddings": 8192}
        np.testing.assert_allclose(
            Rope.from_config(config, 64).inverse_frequencies, expected, rtol=1e-6
        )


@pytest.mark.parametrize("scaling", [_LLAMA3, _YARN, {"type": "linear", "factor": 2.0}])
def test_both_spellings_of_config_json_say_the_same(scaling: dict[str, Any]) -> None:
    old = {"rope_theta": 500000, "rope_scaling": scaling, "max_position_embeddings": 8192}
    new = {"rope_parameters": scaling | {"rope_theta": 500000}, "max_position_embeddings": 8192}
    mixed = {"rope_parameters": scaling, "rope_theta": 500000, "max_position_embeddings": 8192}
    assert Rope.from_config(old, 64) == Rope.from_config(new, 64) == Rope.from_config(mixed, 64)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"attention_factor": 1.5}, 1.5),
        (
            {"mscale": 2.0, "mscale_all_dim": 0.5},
            (0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
        ),
        ({"factor": 0.5}, 1.0),
        ({"factor": None}, 0.1 * math.log(8192 / 2048) + 1),
    ],
)
def test_yarn_attention_factor(extra: dict[str, Any], expected: float) -> None:
    config = {"rope_scaling": _YARN | extra, "max_position_embeddings": 8192}
    assert Rope.from_config(config, 64).attention_factor == pytest.approx(expected)


def test_yarn_without_truncation_keeps_fractional_bounds() -> None:
    config = {"rope_scaling": _YARN, "max_position_embeddings": 8192}
    untruncated = {"rope_scaling": _YARN | {"truncate": False}, "max_position_embeddings": 8192}
    assert Rope.from_config(config, 64) != Rope.from_config(untruncated, 64)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "lack 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor is '2'"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "factor is True"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor is -1"),
        ({"rope_scaling": {"type": "linear", "factor": 10**400}}, "expected a positive number"),
        ({"rope_scaling": {"type": "linear", "factor": math.inf}}, "expected a positive number"),
        ({"rope_scaling": {"type": "linear", "factor": math.nan}}, "expected a positive number"),
        ({"rope_scaling": {"type": "linear", "factor": 1e-300}}, "out of range"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 3}}, "beta_fast"),
        ({"rope_scaling": _LLAMA3 | {"low_freq_factor": 4.0}}, "below high_freq_factor"),
        ({"rope_scaling": _YARN, "rope_theta": 1.0}, "out of range"),
        ({"rope_scaling": _YARN | {"beta_fast": 1e308}}, "out of range"),
        ({"rope_theta": 1e-300}, "out of range"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": [1]}, "rope_parameters is [1]"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Rope.from_config(config, 64)
    assert said in str(error.value)
    assert str(error.value).startswith("config.json: ")


@pytest.mark.parametrize("attention_factor", [1.0, 1.25])
def test_rotate_turns_each_pair_by_its_angle(attention_factor: float) -> None:
    frequencies = (1.0, 0.3, 0.01)
    x = np.random.default_rng(0).standard_normal((4, 2, 6)).astype(np.float32)
    positions = np.array([0, 1, 17, 1000], np.int32)
    rope = Rope(frequencies, attention_factor)
    got = np.asarray(rotate(jnp.asarray(x), jnp.asarray(positions), rope))
    for t, position in enumerate(positions):
        for pair, f in enumerate(frequencies):
            turned = (x[t, :, pair] + 1j * x[t, :, pair + 3]) * np.exp(1j * int(position) * f)
            expected = attention_factor * turned
            np.testing.assert_allclose(got[t, :, pair], expected.real, atol=2e-4)
            np.testing.assert_allclose(got[t, :, pair + 3], expected.imag, atol=2e-4)


def test_rotate_keeps_the_dtype_and_computes_angles_in_float32() -> None:
    x = jnp.ones((1, 1, 2), jnp.bfloat16)
    # 1001 is not a bfloat16: an angle computed in it would be that of 1000.
    got = rotate(x, jnp.array([1001]), Rope((1.0,)))
    assert got.dtype == jnp.bfloat16
    expected = math.cos(1001) - math.sin(1001)
    assert float(got[0, 0, 0]) == pytest.approx(expected, abs=0.02)
