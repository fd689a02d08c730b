"""Which sampling a generation uses: what the user asked for, else what the checkpoint recommends."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from zml.buffer import Slice
from zml.checks import is_number
from zml.dtypes import DType
from zml.errors import ConfigError, UsageError
from zml.nn.sampling import FIELDS, SamplingParameters

_FILTERS = ("top_k", "top_p", "min_p")
_MOST = {"temperature": 100.0, "top_k": 2**31 - 1, "top_p": 1.0, "min_p": 1.0, "seed": 2**32 - 1}


@dataclass(frozen=True)
class Sampling:
    """Checked sampling parameters; temperature 0 is greedy, and then the filters are off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    def parameters(self) -> Any:
        """SamplingParameters of host scalars, ready to be put on a platform."""
        return SamplingParameters(
            **{
                name: Slice(np.asarray(getattr(self, name), DType.of(dtype).numpy))
                for name, (dtype, _) in FIELDS.items()
            }  # type: ignore[arg-type]
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
    for name, value in {"temperature": temperature, **given, "seed": seed}.items():
        _check_flag(name, value)
    if temperature == 0 and asked:
        raise UsageError(
            f"--temperature=0 is greedy decoding and contradicts --{asked[0]}={given[asked[0]]}: drop one of them"
        )
    do_sample = generation_config.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        raise ConfigError(
            f"generation_config.json: do_sample is {do_sample!r:.200}, expected true or false"
        )
    recommended = generation_config if do_sample else {}
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


def _check_flag(name: str, value: float | None) -> None:
    open_low = name == "top_p"
    # Written so that NaN fails.
    if value is not None and (not 0 <= value <= _MOST[name] or (open_low and value == 0)):
        raise UsageError(
            f"--{name}={value}: expected {'more than' if open_low else 'at least'} 0, at most {_MOST[name]}"
        )


def _number(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    whole = key != "top_k" or value == int(value) if is_number(value) else False
    if not whole or not 0 <= value <= _MOST[key]:
        kind = "an integer" if key == "top_k" else "a number"
        raise ConfigError(
            f"generation_config.json: {key} is {value!r:.200}, expected {kind} from 0 to {_MOST[key]}"
        )
    return value
