"""The decoder-only transformer that Llama, Mistral and Qwen are: pre-norm layers of attention and a gated MLP.

An architecture's own file says how its config.json is read, and what is different.

Tags: s (tokens), d (hidden), h and hd (heads and their elements), f (MLP), voc (vocabulary). Axes that are cut over
several devices are cut over the logical axis `model`: heads, f, the vocabulary of the output layer, d of the table.
"""

from __future__ import annotations

from typing import Any, Protocol

from zml import log, ops
from zml.attention import Attention, KvCache, append
from zml.attention import attention as reference
from zml.declared import Repeat
from zml.io import View
from zml.kernels.cpu.formats import Format
from zml.model_tree import model, static
from zml.models.decoder_config import MODEL_AXIS, Config, LayerConfig
from zml.nn import Embedding, Linear, Mlp, RmsNorm, Rope, project
from zml.shape import REPLICATED, AxisPartition
from zml.tensor import Tensor

_LOG = log.get("models")

type LayerCache = tuple[Tensor, Tensor]
"""The keys and values {h,k,hd} of a layer."""


@model
class SelfAttention:
    """Grouped-query attention over a cache, with RoPE and perhaps a norm of each query and key head."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: RmsNorm | None
    k_norm: RmsNorm | None
    rope: Rope = static()
    window: int | None = static()
    scale: float | None = static()

    @staticmethod
    def init(
        view: View, config: Config, layer: LayerConfig, shards: int, **norm: Any
    ) -> SelfAttention:
        """Declares q_proj, k_proj, v_proj, o_proj, and q_norm and k_norm where the config has them."""
        d, heads = {"d": config.hidden_size}, {"h": config.heads, "hd": config.head_dim}
        cached, h = config.cached_heads(shards)
        repeat = Repeat("h", cached // config.kv_heads) if cached > config.kv_heads else None
        norms = [
            RmsNorm.init(view.prefix(name), config.head_dim, eps=config.norm_eps, tag="hd", **norm)
            if config.qk_norm
            else None
            for name in ("q_norm", "k_norm")
        ]
        k, v = (
            Linear.init(view.prefix(name), heads | {"h": cached}, d, bias=config.qkv_bias, repeat=repeat, h=h)
            for name in ("k_proj", "v_proj")
        )  # fmt: skip
        return SelfAttention(
            q=Linear.init(view.prefix("q_proj"), heads, d, bias=config.qkv_bias, h=h),
            k=k,
            v=v,
            o=Linear.init(view.prefix("o_proj"), d, heads, bias=config.o_bias, h=h),
            q_norm=norms[0],
            k_norm=norms[1],
            rope=layer.rope,
            window=layer.window,
            scale=config.scale,
        )

    def __call__(
        self, x: Tensor, start: Tensor, cache: LayerCache | None, attention: Attention
    ) -> tuple[Tensor, LayerCache]:
        """x {s,d} at positions start, start + 1, ... -> {s,d}, and all keys and values: those of the cache with the
        new ones written, or, without a cache, the new ones alone."""
        q, k, v = project(x, self.q, self.k, self.v)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        positions = ops.arange("s", x.dim("s")) + start
        q, k = self.rope.apply(q, positions), self.rope.apply(k, positions)
        q, k, v = q.rename(s="q"), k.rename(s="k"), v.rename(s="k")
        if cache is not None:
            k, v = append(cache[0], k, start), append(cache[1], v, start)
        attended = attention(q, k, v, start=start, window=self.window, scale=self.scale)
        return self.o(attended.rename(q="s")), (k, v)


class Layer(Protocol):
    """A layer of a decoder: a `@zml.model` that an architecture may bring of its own."""

    @staticmethod
    def init(view: View, config: Config, layer: LayerConfig, shards: int) -> Layer:
        """Declares one layer by its Hugging Face names."""

    def __call__(
        self, x: Tensor, start: Tensor, cache: LayerCache | None, attention: Attention
    ) -> tuple[Tensor, LayerCache]:
        """x {s,d} -> {s,d}, and the layer's keys and values with the new ones in them."""


@model
class PreNormLayer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    attention_norm: RmsNorm
    attention: SelfAttention
    mlp_norm: RmsNorm
    mlp: Mlp

    @staticmethod
    def init(view: View, config: Config, layer: LayerConfig, shards: int) -> PreNormLayer:
        """Declares one layer by its Hugging Face names."""
        size, eps = config.hidden_size, config.norm_eps
        return PreNormLayer(
            attention_norm=RmsNorm.init(view.prefix("input_layernorm"), size, eps=eps),
            attention=SelfAttention.init(view.prefix("self_attn"), config, layer, shards),
            mlp_norm=RmsNorm.init(view.prefix("post_attention_layernorm"), size, eps=eps),
            mlp=init_mlp(view.prefix("mlp"), config, shards),
        )

    def __call__(
        self, x: Tensor, start: Tensor, cache: LayerCache | None, attention: Attention
    ) -> tuple[Tensor, LayerCache]:
        """x {s,d} -> {s,d}."""
        attended, cache = self.attention(self.attention_norm(x), start, cache, attention)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), cache


def init_mlp(view: View, config: Config, shards: int) -> Mlp:
    """The gated MLP, cut along f where it divides."""
    cut = cut_or_whole("intermediate_size", config.intermediate_size, shards)
    return Mlp.init(
        view, config.hidden_size, config.intermediate_size, config.activation, bias=config.mlp_bias, partition=cut
    )  # fmt: skip


def cut_or_whole(name: str, size: int, shards: int) -> AxisPartition:
    """The logical axis `model`, or REPLICATED for a size that does not divide by the shards."""
    if size % shards == 0:
        return MODEL_AXIS
    _LOG.debug("%s %d does not divide by %d: every device has all", name, size, shards)
    return REPLICATED


@model
class Decoder:
    """A whole model: from tokens to hidden states over a cache, and from hidden states to logits."""

    embedding: Embedding
    layers: list[Any]
    """Each a Layer."""
    norm: RmsNorm
    lm_head: Linear | None
    """None where the embeddings are the output layer too."""
    embedding_scale: float = static(default=1.0)
    logit_softcap: float | None = static(default=None)

    @staticmethod
    def init(
        view: View, config: Config, shards: int = 1, layer: type[Layer] = PreNormLayer, **norm: Any
    ) -> Decoder:
        """Declares a model by its Hugging Face names. `shards`: how often the logical axis `model` cuts."""
        view = view.over(shards)
        inner = view.prefix("model")
        voc, d = config.vocab_size, config.hidden_size
        head = None
        if not config.tied_embeddings:
            cut = cut_or_whole("vocab_size", voc, shards)
            # What int4 loses here shows in every token: llama.cpp has six bits or more there too.
            finer = view.quantized(Format.INT8) if view.quantize == Format.INT4 else view
            head = Linear.init(finer.prefix("lm_head"), {"voc": voc}, {"d": d}, voc=cut)
        if config.heads % shards:
            _LOG.warning(
                "%d heads do not divide by %d devices: every device computes the attention of all heads",
                config.heads, shards,
            )  # fmt: skip
        return Decoder(
            embedding=Embedding.init(
                inner.prefix("embed_tokens"), voc, d, d=cut_or_whole("hidden_size", d, shards)
            ),
            layers=[
                layer.init(inner.prefix("layers").layer(i), config, part, shards)
                for i, part in enumerate(config.layers)
            ],
            norm=RmsNorm.init(inner.prefix("norm"), d, eps=config.norm_eps, **norm),
            lm_head=head,
            logit_softcap=config.logit_softcap,
        )

    def hidden_states(
        self,
        tokens: Tensor,
        start: Tensor,
        cache: KvCache | None,
        attention: Attention = reference,
    ) -> tuple[Tensor, KvCache]:
        """Runs tokens {s} (i32) at positions start (i32 of rank 0), start + 1, ... over the cache of what came before.

        Gives the normalised states {s,d} and the cache with the new tokens written. Without a cache the tokens see
        each other alone, and the cache that is given holds them alone.
        """
        # Each device has all of d between the layers: parts of it would be gathered for each product.
        x = self.embedding(tokens).partitioned(d=REPLICATED)
        if self.embedding_scale != 1.0:
            x = x * ops.constant(self.embedding_scale, dtype=x.dtype)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            cached = None if cache is None else cache.layer(i)
            # One function of the program for all layers that are alike: tracing does not grow with their number.
            x, (k, v) = ops.call(type(layer).__call__, layer, x, start, cached, attention)
            keys.append(k)
            values.append(v)
        return self.norm(x), KvCache(tuple(keys), tuple(values))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits {..,voc} in f32 of hidden states {..,d}."""
        if self.lm_head is None:
            logits = self.embedding.attend(hidden)
        else:
            (logits,) = project(hidden, self.lm_head, dtype="f32")
        if self.logit_softcap is not None:
            logits = (logits / self.logit_softcap).tanh() * self.logit_softcap
        # The device that draws a token needs all of them.
        return logits.partitioned(voc=REPLICATED)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits {s,voc} (f32) of a whole sequence tokens {s} from position 0, without a cache."""
        hidden, _ = self.hidden_states(tokens, ops.constant(0, dtype="i32"), None)
        return self.logits(hidden)

    def decode_parts(self) -> list[Any]:
        """The parts whose weights one decode step reads: all but the table, unless it is the output layer too."""
        return [self.layers, self.norm, self.embedding if self.lm_head is None else self.lm_head]
