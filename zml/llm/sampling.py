"""Which sampling a generation uses: what the user asked for, else what the checkpoint recommends."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from zml import log
from zml.buffer import Slice
from zml.checks import is_number
from zml.dtypes import DType
from zml.errors import ConfigError, UsageError
from zml.nn.sampling import FIELDS, SamplingParameters

_FILTERS = ("top_k", "top_p", "min_p")


@dataclass(frozen=True)
class _Range:
    least: float
    most: float
    open: bool = False
    """Whether `least` itself is too small."""
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        # Written so that NaN fails.
        if not is_number(value) or not self.least <= value <= self.most:
            return False
        return not (self.open and value == self.least) and not (self.whole and value != int(value))

    def __str__(self) -> str:
        low = f"{'more than' if self.open else 'at least'} {self.least}"
        return f"{'an integer of ' if self.whole else ''}{low}, at most {self.most}"


_RANGES = {
    "temperature": _Range(0, 100),
    "top_k": _Range(0, 2**31 - 1, whole=True),
    "top_p": _Range(0, 1, open=True),
    "min_p": _Range(0, 1),
    # transformers takes any positive one; logits divided by much less than this are no longer finite.
    "repetition_penalty": _Range(0.01, 100),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "seed": _Range(0, 2**32 - 1, whole=True),
}

# What else changes the text that transformers' `generate` makes, with the value that does not.
_NOT_DONE: dict[str, Any] = {
    "num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0,
    "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1, "bad_words_ids": None,
    "force_words_ids": None, "forced_bos_token_id": None, "forced_eos_token_id": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "sequence_bias": None, "exponential_decay_length_penalty": None,
}  # fmt: skip


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
        scalars: dict[str, Any] = {
            name: Slice(np.asarray(getattr(self, name), DType.of(dtype).numpy))
            for name, (dtype, _) in FIELDS.items()
        }
        return SamplingParameters(**scalars)


def resolve(generation_config: dict[str, Any], **flags: float | None) -> Sampling:
    """Merges flags (the fields of Sampling; None or absent: not given) over generation_config.json.

    A checkpoint that does not say `do_sample` is decoded greedily, unless a flag asks for sampling; a filter flag
    alone does. Temperature and filters of the checkpoint count where it says `do_sample`, its repetition penalty
    always, as in transformers' `generate`; penalties change what is likeliest, so greedy decoding has them too.

    Raises UsageError for flags out of range and for filters beside a temperature of 0, ConfigError for a
    generation_config.json out of range.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name, flag in given.items():
        if flag not in _RANGES[name]:
            raise UsageError(f"--{name}={flag}: expected {_RANGES[name]}")
    asked = [name for name in _FILTERS if name in given]
    if given.get("temperature") == 0 and asked:
        raise UsageError(
            f"--temperature=0 is greedy decoding and contradicts --{asked[0]}={given[asked[0]]}: drop one of them"
        )
    do_sample = generation_config.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        raise ConfigError(
            f"generation_config.json: do_sample is {do_sample!r:.200}, expected true or false"
        )
    ignored = [
        f"{name}={asked_for!r:.60}"
        for name, neutral in _NOT_DONE.items()
        if (asked_for := generation_config.get(name)) not in (None, False, [], {}, neutral)
    ]
    if ignored:
        log.get("llm").warning(
            "generation_config.json asks for %s, which zml does not do: the text may differ from transformers'",
            ", ".join(ignored),
        )
    recommended = ["repetition_penalty"]
    if do_sample:
        recommended += ["temperature", *_FILTERS]
    chosen: dict[str, Any] = {"temperature": 1.0 if do_sample or asked else 0.0}
    for name in recommended:
        value: Any = generation_config.get(name)
        if value is None or name in given:
            continue
        # transformers takes a top_p of 0 for the likeliest token alone, and so does zml's sampling.
        if value not in _RANGES[name] and (name, value) != ("top_p", 0):
            raise ConfigError(
                f"generation_config.json: {name} is {value!r:.200}, expected {_RANGES[name]}"
            )
        chosen[name] = int(value) if _RANGES[name].whole else value
    chosen |= given
    if chosen["temperature"] == 0:
        chosen = {name: value for name, value in chosen.items() if name not in _FILTERS}
    return Sampling(**chosen)
