"""Rotary position embeddings (Su et al., arXiv:2104.09864) and their scaled variants.

`Rope.from_config` reads both spellings of a Hugging Face config.json: `rope_parameters` (transformers 5, which may have
other parameters for each layer type) and `rope_theta` + `rope_scaling` (earlier).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zml.checks import is_number
from zml.errors import ConfigError, ShapeError
from zml.nn.rope_scaling import COMMON, KEYS, ORIGINAL, Setting, compute, number
from zml.ops import concatenate, stack
from zml.tensor import Tensor

type Layout = Literal["half", "interleaved"]
"""Which elements of a head form a pair: i and i + n/2 (half, as Hugging Face stores most models), or 2i and 2i + 1
(interleaved: GPT-J, GLM, Cohere, and Llama as Meta stores it)."""

CONFIG_KEYS = (
    "rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq", "partial_rotary_factor", ORIGINAL,
)  # fmt: skip
"""The keys of config.json that are read here (beside `max_position_embeddings`)."""
_LOCAL = "sliding_attention"


@dataclass(frozen=True)
class Rope:
    """Static data: an inverse frequency for each pair of elements, and the factor on cos and sin.

    Twice as many elements of a head are rotated as there are frequencies, the first ones; the rest stays as it is.
    """

    inverse_frequencies: tuple[float, ...]
    attention_factor: float = 1.0
    layout: Layout = "half"

    @staticmethod
    def from_config(
        config: Mapping[str, Any],
        head_dim: int,
        *,
        layout: Layout = "half",
        layer_type: str | None = None,
        length: int | None = None,
    ) -> Rope:
        """The Rope of a config.json, for heads of `head_dim` elements.

        `layer_type` ("full_attention", "sliding_attention") picks among parameters that differ by it. `length` is the
        greatest number of positions of the program, by default `max_position_embeddings`: `dynamic` and `longrope` are
        computed for it, as transformers does for a sequence of that very length (it computes them anew while a
        sequence grows, and leaves the keys in the cache as they were rotated; here all keys agree). Raises ConfigError
        for a type or a key that it does not know, and for numbers out of range.
        """
        parameters = rope_parameters(config, layer_type)
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if not isinstance(kind, str) or kind not in KEYS:
            raise ConfigError(
                f"config.json: RoPE type {kind!r} is not supported (expected one of {', '.join(KEYS)})"
            )
        known = COMMON | KEYS[kind]
        unknown = sorted(k for k, v in parameters.items() if k not in known and v is not None)
        if unknown:
            raise ConfigError(
                f"config.json: RoPE type {kind!r} does not understand {', '.join(unknown)} "
                f"(expected {', '.join(sorted(known))})"
            )
        try:
            # A number that is not finite anywhere on the way is an error, not a model of zeros.
            with np.errstate(all="raise", under="ignore"):
                setting = _setting(config, parameters, head_dim, length)
                frequencies, attention_factor = compute(kind, setting)
                rounded = tuple(float(f) for f in frequencies.astype(np.float32))
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(
                f"config.json: the RoPE parameters are out of range ({error}): {parameters!r:.400}, "
                f"rope_theta {config.get('rope_theta')!r:.40}"
            ) from error
        return Rope(rounded, attention_factor, layout)

    @staticmethod
    def by_layer_type(
        config: Mapping[str, Any],
        head_dim: int,
        layer_types: Iterable[str],
        *,
        layout: Layout = "half",
        length: int | None = None,
    ) -> dict[str, Rope]:
        """The Rope of each layer type that comes up in `layer_types`, as `from_config` reads it."""
        return {
            kind: Rope.from_config(config, head_dim, layout=layout, layer_type=kind, length=length)
            for kind in dict.fromkeys(layer_types)
        }

    def apply(self, x: Tensor, positions: Tensor, tag: str = "hd") -> Tensor:
        """Rotates x {.., hd} by its positions (integers), whose tags are some of x's: {s} with x {s,h,hd}, or {b,s}.

        Angles are computed in float32; cos, sin and the products have the element type of x, as in transformers.
        Raises ShapeError for an axis `tag` that is missing or too short, and for positions that do not fit x.
        """
        pairs = len(self.inverse_frequencies)
        if tag not in x.tags or x.dim(tag) < 2 * pairs:
            raise ShapeError(
                f"Rope: {2 * pairs} elements of {tag!r} are to be rotated; given {x.shape}; "
                "make the Rope with the head_dim of the model"
            )
        strange = [t for t in positions.tags if t == tag or t not in x.tags]
        if strange or positions.dtype.kind != "int":
            raise ShapeError(
                f"Rope: positions {positions.shape} do not fit {x.shape}; "
                f"expected integers, with tags of it other than {tag!r}: rename() or convert() them"
            )
        inverse = Tensor(np.asarray(self.inverse_frequencies, np.float32), (tag,))
        angles = positions.convert("f32").outer(inverse)
        if self.layout == "half":
            first, second = x.slice(**{tag: (0, pairs)}), x.slice(**{tag: (pairs, 2 * pairs)})
        else:
            first, second = (x.slice(**{tag: (i, 2 * pairs, 2)}) for i in (0, 1))
        cos = (angles.cos() * self.attention_factor).convert(x.dtype).broadcast(first.shape)
        sin = (angles.sin() * self.attention_factor).convert(x.dtype).broadcast(first.shape)
        turned = [first * cos - second * sin, second * cos + first * sin]
        if self.layout == "interleaved":
            turned = [stack(turned, "_pair", at=x.axis(tag) + 1).merge(**{tag: (tag, "_pair")})]
        if x.dim(tag) > 2 * pairs:
            turned.append(x.slice(**{tag: (2 * pairs, None)}))
        return concatenate(turned, tag)


def rope_parameters(config: Mapping[str, Any], layer_type: str | None = None) -> Mapping[str, Any]:
    """The RoPE parameters of a config.json, those of `layer_type` where they differ by it.

    Gemma 3 before transformers 5 had its own spelling: `rope_local_base_freq` is the theta of sliding attention, which
    is not scaled.
    """
    spelling = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    found = config.get(spelling) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"config.json: {spelling} is {found!r:.200}, expected an object")
    other = (config.get("rope_scaling") or {}) if spelling == "rope_parameters" else {}
    if not isinstance(other, dict) or any(found.get(k) != v for k, v in other.items()):
        # transformers takes rope_scaling then: neither is quietly the right one.
        raise ConfigError(
            f"config.json: rope_parameters and rope_scaling contradict each other: {found!r:.200} and {other!r:.200}; "
            "delete the one that is not meant"
        )
    nested = [key for key, value in found.items() if isinstance(value, dict)]
    if nested:
        if layer_type is None or layer_type not in nested:
            asked = (
                "none is asked for" if layer_type is None else f"{layer_type!r} is not among them"
            )
            raise ConfigError(
                f"config.json: {spelling} has parameters for {', '.join(nested)}, and {asked}"
            )
        # What stands beside them is meant for all of them.
        beside = {key: value for key, value in found.items() if key not in nested}
        return {key: value for key, value in beside.items() if value is not None} | found[
            layer_type
        ]
    if layer_type == _LOCAL and config.get("rope_local_base_freq") is not None:
        return {"rope_theta": config["rope_local_base_freq"]}
    return found


def _setting(
    config: Mapping[str, Any], parameters: Mapping[str, Any], head_dim: int, length: int | None
) -> Setting:
    longest = number(config, "max_position_embeddings", 2048.0)
    # Phi 3 keeps it outside of the parameters, and it goes before theirs.
    original = number(config, ORIGINAL, number(parameters, ORIGINAL, longest))
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    partial = 1.0 if partial is None else partial
    if not is_number(partial) or not 0 < partial <= 1:
        raise ConfigError(
            f"config.json: partial_rotary_factor is {partial!r:.200}, expected a number above 0 and up to 1"
        )
    result = Setting(
        parameters=parameters,
        theta=number(parameters, "rope_theta", number(config, "rope_theta", 10000.0)),
        head_dim=head_dim,
        partial=float(partial),
        longest=longest,
        original=original,
        length=longest if length is None else float(length),
    )
    if result.turned < 2 or result.turned % 2:
        raise ConfigError(
            f"config.json: RoPE rotates {result.turned} elements of a head of {head_dim} "
            f"(partial_rotary_factor {partial}), expected an even number"
        )
    return result
