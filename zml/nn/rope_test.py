import math
from typing import Any

import numpy as np
import pytest

from zml.errors import ConfigError, ShapeError
from zml.nn.rope import CONFIG_KEYS, Layout, Rope
from zml.tensor import Tensor

_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_LONGROPE = {
    "rope_type": "longrope", "short_factor": [1 + i / 64 for i in range(32)],
    "long_factor": [1.5 + i for i in range(32)], "original_max_position_embeddings": 4096,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}

_TRANSFORMERS: list[Any] = [
    (
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        16384,
        8192,
        [1.0, 0.72378397, 0.0056721, 4.4450713e-05],
        1.0,
    ),
    (
        {
            "rope_type": "dynamic",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
        20000,
        8192,
        [1.0, 0.49504665, 0.0036071904, 2.6284037e-05],
        1.0,
    ),
    (
        {
            "rope_type": "linear",
            "factor": 8.0,
            "rope_theta": 1000000.0,
            "partial_rotary_factor": 0.25,
        },
        None,
        8192,
        [0.125, 0.022228492, 0.00012500001, 7.0292668e-07],
        1.0,
    ),
    (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_theta": 500000.0,
        },
        None,
        131072,
        [1.0, 0.66360128, 0.00052484602, 3.7673226e-07],
        1.0,
    ),
    (
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 2048,
            "rope_theta": 1000000.0,
        },
        None,
        8192,
        [1.0, 0.64938164, 0.00025000001, 3.8498163e-07],
        1.138629436111989,
    ),
    (
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
            "beta_fast": 32,
            "beta_slow": 1,
            "truncate": False,
        },
        None,
        163840,
        [1.0, 0.7498942, 0.0055240626, 3.3338035e-06],
        1.0879546075066122,
    ),
    (
        {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
        None,
        8192,
        [1.0, 0.64938164, 0.0, 0.0],
        1.0,
    ),
]


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
        ({"rope_scaling": {"type": "mrope"}}, "'mrope' is not supported"),
        ({"rope_scaling": {"type": "dynamic"}}, "lack 'factor'"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 32}}, "short_factor is None"),
        ({"rope_scaling": _LONGROPE | {"long_factor": [1.0] * 31}}, "a list of 32 positive"),
        (
            {"rope_scaling": _LONGROPE | {"long_factor": [1.0] * 31 + [0.0]}},
            "a list of 32 positive",
        ),
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
        ({"partial_rotary_factor": 0}, "partial_rotary_factor is 0"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
        ({"partial_rotary_factor": "all"}, "partial_rotary_factor is 'all'"),
        ({"partial_rotary_factor": 0.05}, "rotates 3 elements of a head of 64"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2}, "partial_rotary_factor": 0.04},
            "out of range",
        ),
        (
            {"rope_parameters": {"full_attention": {}}},
            "parameters for full_attention, and none is asked for",
        ),
        ({"rope_parameters": [1]}, "rope_parameters is [1]"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Rope.from_config(config, 64)
    assert said in str(error.value)
    assert str(error.value).startswith("config.json: ")


@pytest.mark.parametrize("length", [None, 100, 4096, 4097, 10000])
def test_dynamic_is_computed_for_the_length_of_the_program(length: int | None) -> None:
    config = {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 4096}
    longer = 2.0 * max(length or 0, 4096) / 4096 - 1
    expected = _plain(10000.0 * longer ** (64 / 62), 64)
    got = Rope.from_config(config, 64, length=length)
    np.testing.assert_allclose(got.inverse_frequencies, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("length", "key"),
    [(1, "short_factor"), (4096, "short_factor"), (4097, "long_factor"), (None, "long_factor")],
)
def test_longrope_has_factors_for_short_and_long_programs(length: int | None, key: str) -> None:
    config = {"rope_scaling": _LONGROPE, "max_position_embeddings": 131072}
    got = Rope.from_config(config, 64, length=length)
    factors: Any = _LONGROPE[key]
    expected = [f / factor for f, factor in zip(_plain(10000.0, 64), factors, strict=True)]
    np.testing.assert_allclose(got.inverse_frequencies, expected, rtol=1e-6)
    assert got.attention_factor == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    # As Phi 3 writes it: the original length beside the parameters.
    inner = {k: v for k, v in _LONGROPE.items() if k != "original_max_position_embeddings"}
    outside = config | {"rope_scaling": inner, "original_max_position_embeddings": 4096}
    assert Rope.from_config(outside, 64, length=length) == got


def test_types_against_transformers() -> None:
    # The first, second, middle and last frequency as transformers 5.24 computes them (in float32).
    for parameters, length, longest, expected, attention_factor in _TRANSFORMERS:
        config = {"rope_parameters": parameters, "max_position_embeddings": longest}
        got = Rope.from_config(config, 64, length=length)
        inverse = got.inverse_frequencies
        some = [inverse[0], inverse[1], inverse[len(inverse) // 2], inverse[-1]]
        np.testing.assert_allclose(some, expected, rtol=2e-6)
        assert got.attention_factor == pytest.approx(attention_factor, rel=1e-6)


def test_proportional_keeps_the_frequencies_of_the_whole_head() -> None:
    config = {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.25}}
    got = Rope.from_config(config, 64).inverse_frequencies
    np.testing.assert_allclose(got[:8], _plain(10000.0, 64)[:8], rtol=1e-6)
    assert got[8:] == (0.0,) * 24


def test_each_layer_type_has_its_parameters() -> None:
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    # Gemma 3 before transformers 5.
    old = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    types = ["sliding_attention", "sliding_attention", "full_attention"]
    for config in (new, old):
        ropes = Rope.by_layer_type(config, 64, types, layout="interleaved")
        assert list(ropes) == ["sliding_attention", "full_attention"]
        full, local = ropes["full_attention"], ropes["sliding_attention"]
        np.testing.assert_allclose(
            full.inverse_frequencies, [f / 8 for f in _plain(1e6, 64)], rtol=1e-6
        )
        np.testing.assert_allclose(local.inverse_frequencies, _plain(1e4, 64), rtol=1e-6)
        assert full.layout == local.layout == "interleaved"
        assert set(config) <= set(CONFIG_KEYS)
    with pytest.raises(ConfigError, match="'chunked_attention' is not among them"):
        Rope.from_config(new, 64, layer_type="chunked_attention")
    beside: dict[str, Any] = {"rope_parameters": new["rope_parameters"] | {"mrope_section": [1]}}
    with pytest.raises(ConfigError, match="mrope_section"):
        Rope.from_config(beside, 64, layer_type="full_attention")


def _turned(x: np.ndarray, positions: Any, rope: Rope) -> np.ndarray:
    """x [.., hd] in float64, one pair after another; positions broadcast with x[..., 0]."""
    out, count = x.astype(np.float64), len(rope.inverse_frequencies)
    for i, f in enumerate(rope.inverse_frequencies):
        first, second = (i, i + count) if rope.layout == "half" else (2 * i, 2 * i + 1)
        pair = out[..., first] + 1j * out[..., second]
        turned = rope.attention_factor * pair * np.exp(1j * positions * np.float64(f))
        out[..., first], out[..., second] = turned.real, turned.imag
    return out


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("head_dim", [6, 8, 11])
@pytest.mark.parametrize("attention_factor", [1.0, 1.25])
def test_apply_turns_each_pair_by_its_angle(
    layout: Layout, head_dim: int, attention_factor: float
) -> None:
    rope = Rope((1.0, 0.3, 0.01), attention_factor, layout)
    rng = np.random.default_rng()
    x = rng.standard_normal((4, 2, head_dim)).astype(np.float32)
    positions = np.array([0, 1, 17, 1000], np.int32)
    got = rope.apply(Tensor(x, ("s", "h", "hd")), Tensor(positions, ("s",)))
    assert got.tags == ("s", "h", "hd")
    np.testing.assert_allclose(got.value, _turned(x, positions[:, None], rope), atol=3e-4)
    np.testing.assert_array_equal(got.value[..., 6:], x[..., 6:])


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 3e-2), ("f16", 4e-3), ("f32", 3e-4)])
def test_positions_meet_their_axes_by_tag(layout: Layout, dtype: str, tolerance: float) -> None:
    rope = Rope((1.0, 0.1), layout=layout)
    rng = np.random.default_rng()
    x = Tensor(rng.standard_normal((3, 2, 5, 4)).astype(np.float32), ("b", "h", "s", "hd"))
    x = x.convert(dtype)
    positions = rng.integers(0, 1000, (5, 3)).astype(np.int32)
    got = rope.apply(x, Tensor(positions, ("s", "b")))
    assert (got.shape, got.dtype) == (x.shape, dtype)
    expected = _turned(np.asarray(x.value).astype(np.float64), positions.T[:, None], rope)
    np.testing.assert_allclose(
        np.asarray(got.value).astype(np.float64), expected, atol=tolerance, rtol=tolerance
    )
    # The heads may come first, and one position may serve all.
    moved = rope.apply(x.transpose("hd", "h", ...), Tensor(positions, ("s", "b")))
    np.testing.assert_array_equal(moved.transpose(*x.tags).value, got.value)
    one = rope.apply(x.choose(s=0), Tensor(np.int32(7), ()))
    expected = _turned(np.asarray(x.choose(s=0).value).astype(np.float64), 7, rope)
    np.testing.assert_allclose(
        np.asarray(one.value).astype(np.float64), expected, atol=tolerance, rtol=tolerance
    )


def test_angles_are_computed_in_float32() -> None:
    x = Tensor(np.ones((1, 1, 2), np.float32), ("s", "h", "hd")).convert("bf16")
    # 1001 is not a bfloat16: an angle computed in it would be that of 1000.
    got = Rope((1.0,)).apply(x, Tensor(np.array([1001], np.int32), ("s",)))
    assert got.dtype == "bf16"
    expected = math.cos(1001) - math.sin(1001)
    assert float(got.value[0, 0, 0]) == pytest.approx(expected, abs=0.02)


def test_what_cannot_be_rotated_is_refused() -> None:
    x, positions = Tensor(np.zeros((3, 2, 4), np.float32), ("s", "h", "hd")), np.zeros(3, np.int32)
    with pytest.raises(ShapeError, match=r"6 elements of 'hd' .* \{s=3,h=2,hd=4,f32\}"):
        Rope((1.0, 1.0, 1.0)).apply(x, Tensor(positions, ("s",)))
    with pytest.raises(ShapeError, match="elements of 'e'"):
        Rope((1.0,)).apply(x, Tensor(positions, ("s",)), tag="e")
    for wrong in (Tensor(positions, ("t",)), Tensor(positions.astype(np.float32), ("s",))):
        with pytest.raises(ShapeError, match="do not fit"):
            Rope((1.0,)).apply(x, wrong)


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 2.0}, "linear"])
def test_two_spellings_that_contradict_each_other_are_refused(scaling: object) -> None:
    config = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    with pytest.raises(ConfigError, match="contradict each other"):
        Rope.from_config(config | {"rope_scaling": scaling}, 8)
    assert Rope.from_config(config | {"rope_scaling": {"rope_type": "default"}}, 8) == (
        Rope.from_config(config, 8)
    )
