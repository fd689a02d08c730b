"""Which sampling a generation uses: what the user asked for, else what the checkpoint recommends."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from zml.errors import ConfigError, UsageError
from zml.nn.sampling import SamplingState

_FILTERS = ("top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Sampling:
    """Checked sampling parameters; temperature 0 is greedy, and then the filters are off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def state(self) -> SamplingState[np.ndarray]:
        """The same as host scalars, ready to be put on a platform."""
        return SamplingState(
            temperature=np.asarray(self.temperature, np.float32),
            top_k=np.asarray(self.top_k, np.int32),
            top_p=np.asarray(self.top_p, np.float32),
            min_p=np.asarray(self.min_p, np.float32),
            seed=np.asarray(self.seed, np.uint32),
        )


def resolve(
    generation_config: dict[str, Any],
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
) -> Sampling:
    """Merges flags (None: not given) over generation_config.json.

    A checkpoint that does not say `do_sample` is decoded greedily, unless a flag asks for sampling; a filter flag
    alone does. Raises UsageError for values out of range and for filters beside a temperature of 0.
    """
    given = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    asked = [name for name in _FILTERS if given[name] is not None]
    _check("--temperature", temperature, 0.0, 100.0)
    _check("--top_p", top_p, 0.0, 1.0, open_low=True)
    _check("--min_p", min_p, 0.0, 1.0)
    _check("--top_k", top_k, 0, 2**31 - 1)
    _check("--seed", seed, 0, 2**32 - 1)
    if temperature == 0 and asked:
        raise UsageError(
            f"--temperature=0 is greedy decoding and contradicts --{asked[0]}={given[asked[0]]}: drop one of them"
        )
    recommended = generation_config if generation_config.get("do_sample") else {}
    if temperature is None:
        temperature = _number(recommended, "temperature", 1.0 if recommended or asked else 0.0)
    if temperature == 0:
        return Sampling(seed=seed)
    return Sampling(
        temperature=temperature,
        top_k=top_k if top_k is not None else int(_number(recommended, "top_k", 0)),
        top_p=top_p if top_p is not None else _number(recommended, "top_p", 1.0),
        min_p=min_p if min_p is not None else _number(recommended, "min_p", 0.0),
        seed=seed,
    )


def _check(flag: str, value: float | None, low: float, high: float, open_low: bool = False) -> None:
    if value is None:
        return
    # Written so that NaN fails.
    if not (low <= value <= high) or (open_low and value == low):
        raise UsageError(
            f"{flag}={value}: expected {'more than' if open_low else 'at least'} {low}, at most {high}"
        )


def _number(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ConfigError(
            f"generation_config.json: {key} is {value!r}, expected a number of at least 0"
        )
    return value
