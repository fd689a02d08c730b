"""The frequencies of rotary position embeddings for each `rope_type` of a Hugging Face config.json.

The formulas are those of transformers 5 (modeling_rope_utils.py); the papers are named at each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zml.checks import is_number
from zml.errors import ConfigError

type Frequencies = np.ndarray[Any, np.dtype[np.float64]]
ORIGINAL = "original_max_position_embeddings"
COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
KEYS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", ORIGINAL},
    "longrope": {"factor", "attention_factor", "short_factor", "long_factor", ORIGINAL},
    "proportional": {"factor"},
    "yarn": {
        "factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", ORIGINAL,
    },
}  # fmt: skip
"""What each type may carry beside COMMON. A key outside this list would change the maths unnoticed."""


@dataclass(frozen=True)
class Setting:
    """What the formulas read: the parameters of one layer type, and what the config says of the whole model."""

    parameters: Mapping[str, Any]
    theta: float
    head_dim: int
    partial: float
    longest: float
    """max_position_embeddings"""
    original: float
    """original_max_position_embeddings, by default the same"""
    length: float
    """The positions that the program is compiled for."""

    @property
    def turned(self) -> int:
        """How many elements of a head are rotated."""
        return int(self.head_dim * self.partial)

    def plain(self) -> Frequencies:
        """theta^(-2i/dim), as RoPE was published (arXiv:2104.09864)."""
        dim = self.turned
        return self.theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number among the parameters."""
        return number(self.parameters, key, default)


def compute(kind: str, setting: Setting) -> tuple[Frequencies, float]:
    """Inverse frequencies, and the factor on cos and sin."""
    match kind:
        case "linear":
            return setting.plain() / setting.number("factor"), 1.0
        case "dynamic":
            return _dynamic(setting), 1.0
        case "llama3":
            return _llama3(setting), 1.0
        case "longrope":
            return _longrope(setting)
        case "proportional":
            return _proportional(setting), 1.0
        case "yarn":
            return _yarn(setting)
    return setting.plain(), 1.0


def number(parameters: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A positive number of a config; without a default it must be there."""
    value = parameters.get(key)
    if value is None:
        if default is None:
            raise ConfigError(f"config.json: the RoPE parameters lack {key!r} (expected a number)")
        return default
    if not is_number(value) or value <= 0:
        raise ConfigError(f"config.json: {key} is {value!r:.200}, expected a positive number")
    return float(value)


def _dynamic(s: Setting) -> Frequencies:
    """NTK by length: a greater theta for longer sequences, here for the greatest length of the program."""
    dim, factor = s.turned, s.number("factor")
    longer = factor * max(s.length, s.longest) / s.longest - (factor - 1)
    theta = s.theta * longer ** (dim / (dim - 2))
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def _llama3(s: Setting) -> Frequencies:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear blend between them."""
    base, factor = s.plain(), s.number("factor")
    low, high = s.number("low_freq_factor"), s.number("high_freq_factor")
    if low >= high:
        raise ConfigError(
            f"config.json: low_freq_factor {low} is expected to be below high_freq_factor {high}"
        )
    # Turns made within the original context: above `high` keep, below `low` interpolate.
    turns = s.original * base / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return base * keep + base / factor * (1.0 - keep)


def _longrope(s: Setting) -> tuple[Frequencies, float]:
    """LongRoPE (Ding et al., arXiv:2402.13753): factors for each frequency, for long contexts or for short."""
    base = s.plain()
    short, long = (
        _factors(s.parameters, key, len(base)) for key in ("short_factor", "long_factor")
    )
    factor = s.number("factor", s.longest / s.original)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(s.original))
    chosen = long if s.length > s.original else short
    return base / np.asarray(chosen), s.number("attention_factor", usual)


def _factors(parameters: Mapping[str, Any], key: str, count: int) -> Sequence[float]:
    factors = parameters.get(key)
    numbers = isinstance(factors, list) and all(is_number(f) and f > 0 for f in factors)
    if not isinstance(factors, list) or not numbers or len(factors) != count:
        raise ConfigError(
            f"config.json: {key} is {factors!r:.200}, expected a list of {count} positive numbers"
        )
    return factors


def _proportional(s: Setting) -> Frequencies:
    """The first part of the frequencies of the whole head (Gemma 4); the others are 0, so the rest stays as it is."""
    dim = s.head_dim
    turned = int(s.partial * dim // 2)
    base = s.theta ** (-np.arange(0, 2 * turned, 2, dtype=np.float64) / dim)
    return np.concatenate([base, np.zeros(dim // 2 - turned)]) / s.number("factor", 1.0)


def _yarn(s: Setting) -> tuple[Frequencies, float]:
    """YaRN (arXiv:2309.00071), equations 17-23: a ramp over the dimensions between beta_fast and beta_slow turns."""
    base, dim = s.plain(), s.turned
    factor = s.number("factor", s.longest / s.original)

    def dimension_of(turns: float) -> float:
        return dim * math.log(s.original / (turns * 2 * math.pi)) / (2 * math.log(s.theta))

    low = dimension_of(s.number("beta_fast", 32.0))
    high = dimension_of(s.number("beta_slow", 1.0))
    if s.parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    interpolate = np.clip((np.arange(len(base)) - low) / (high - low), 0.0, 1.0)
    result = base / factor * interpolate + base * (1.0 - interpolate)
    return result, _yarn_attention_factor(s, factor)


def _yarn_attention_factor(s: Setting, factor: float) -> float:
    if s.parameters.get("attention_factor") is not None:
        return s.number("attention_factor")

    def scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if s.parameters.get("mscale") and s.parameters.get("mscale_all_dim"):
        return scale(s.number("mscale")) / scale(s.number("mscale_all_dim"))
    return scale(1.0)
