"""Rotary position embeddings (Su et al., arXiv:2104.09864) and the scaled variants that Llama checkpoints use.

`Rope.from_config` reads both spellings of a Hugging Face config.json: `rope_parameters` (transformers 5) and
`rope_theta` + `rope_scaling` (earlier).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zml.checks import is_number
from zml.errors import ConfigError

_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_ORIGINAL = "original_max_position_embeddings"
# What each type may carry beside _COMMON. A key outside this list would change the maths unnoticed.
_KEYS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL},
    "yarn": {
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        _ORIGINAL,
    },
}


@dataclass(frozen=True)
class Rope:
    """Inverse frequencies, one for each pair of head dimensions, and the factor on cos and sin (1 but for YaRN)."""

    inverse_frequencies: tuple[float, ...]
    attention_factor: float = 1.0

    @staticmethod
    def from_config(config: Mapping[str, Any], head_dim: int) -> "Rope":
        """The Rope of a Hugging Face config.json. Raises ConfigError for a type or a key it does not know."""
        spelling = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
        parameters = config.get(spelling) or {}
        if not isinstance(parameters, dict):
            raise ConfigError(f"config.json: {spelling} is {parameters!r:.200}, expected an object")
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if not isinstance(kind, str) or kind not in _KEYS:
            raise ConfigError(
                f"config.json: RoPE type {kind!r} is not supported (expected one of {', '.join(_KEYS)})"
            )
        known = _COMMON | _KEYS[kind]
        unknown = sorted(k for k, v in parameters.items() if k not in known and v is not None)
        if unknown:
            raise ConfigError(
                f"config.json: RoPE type {kind!r} does not understand {', '.join(unknown)} "
                f"(expected {', '.join(sorted(known))})"
            )
        partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        if partial not in (None, 1, 1.0):
            raise ConfigError(f"config.json: partial_rotary_factor is {partial}, expected 1")
        try:
            # A number that is not finite anywhere on the way is an error, not a model of zeros.
            with np.errstate(all="raise", under="ignore"):
                return _compute(kind, parameters, config, head_dim)
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(
                f"config.json: the RoPE parameters are out of range ({error}): {parameters!r:.400}, "
                f"rope_theta {config.get('rope_theta')!r:.40}"
            ) from error


def _compute(
    kind: str, parameters: Mapping[str, Any], config: Mapping[str, Any], head_dim: int
) -> Rope:
    theta = _number(parameters, "rope_theta", default=_number(config, "rope_theta", 10000.0))
    base = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    longest = _number(config, "max_position_embeddings", 2048)
    original = _number(parameters, _ORIGINAL, default=longest)
    attention_factor = 1.0
    if kind == "linear":
        base = base / _number(parameters, "factor")
    elif kind == "llama3":
        base = _llama3(base, parameters, original)
    elif kind == "yarn":
        factor = _number(parameters, "factor", default=longest / original)
        base = _yarn(base, parameters, original, theta, factor)
        attention_factor = _yarn_attention_factor(parameters, factor)
    return Rope(tuple(float(f) for f in base.astype(np.float32)), attention_factor)


def _number(parameters: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = parameters.get(key)
    if value is None:
        if default is None:
            raise ConfigError(f"config.json: the RoPE parameters lack {key!r} (expected a number)")
        return default
    if not is_number(value) or value <= 0:
        raise ConfigError(f"config.json: {key} is {value!r:.200}, expected a positive number")
    return float(value)


def _llama3(base: np.ndarray, parameters: Mapping[str, Any], original: float) -> np.ndarray:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear blend between them."""
    factor = _number(parameters, "factor")
    low, high = _number(parameters, "low_freq_factor"), _number(parameters, "high_freq_factor")
    if low >= high:
        raise ConfigError(
            f"config.json: low_freq_factor {low} is expected to be below high_freq_factor {high}"
        )
    # Turns made within the original context: above `high` keep, below `low` interpolate.
    turns = original * base / (2 * math.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return base * keep + base / factor * (1.0 - keep)


def _yarn(
    base: np.ndarray, parameters: Mapping[str, Any], original: float, theta: float, factor: float
) -> np.ndarray:
    """YaRN (arXiv:2309.00071), equations 17-23: a ramp over the dimensions between beta_fast and beta_slow turns."""
    dim = 2 * len(base)

    def dimension_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension_of(_number(parameters, "beta_fast", 32.0))
    high = dimension_of(_number(parameters, "beta_slow", 1.0))
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    interpolate = np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
    return base / factor * interpolate + base * (1.0 - interpolate)


def _yarn_attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    if parameters.get("attention_factor") is not None:
        return _number(parameters, "attention_factor")

    def scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return scale(_number(parameters, "mscale")) / scale(_number(parameters, "mscale_all_dim"))
    return scale(1.0)


def rotate(x: jax.Array, positions: jax.Array, rope: Rope) -> jax.Array:
    """Rotates x [tokens, heads, head_dim] by its positions [tokens] (int32), halves paired as Hugging Face stores them.

    Angles are computed in float32, whatever the dtype of x, which is also that of the result.
    """
    angles = positions[:, None].astype(jnp.float32) * jnp.asarray(rope.inverse_frequencies)
    cos = (jnp.cos(angles) * rope.attention_factor).astype(x.dtype)[:, None, :]
    sin = (jnp.sin(angles) * rope.attention_factor).astype(x.dtype)[:, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
