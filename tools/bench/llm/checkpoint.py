"""A Llama of random bfloat16 weights: written once in Hugging Face's layout, and the same weights as GGUF files."""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.bench.llm import gguf

Bits = npt.NDArray[np.uint16]
"""bfloat16 as its bits."""

# Prime, so that tiling it gives no two equal rows of any usual length.
_BLOCK = 4_194_301
_SCALE = 0.02
_EPS = 1e-5
_ROPE_THETA = 10000.0


@dataclass(frozen=True)
class Size:
    """The sizes of a Llama; the defaults have 1.1e9 weights. `lm_head` is a tensor of its own."""

    layers: int = 16
    hidden: int = 2048
    ffn: int = 8192
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    vocab: int = 32000
    max_positions: int = 8192

    @property
    def name(self) -> str:
        """A folder's name that no other size has."""
        attention = f"{self.heads}x{self.kv_heads}x{self.head_dim}"
        return f"llama-{self.layers}x{self.hidden}x{self.ffn}-{attention}-{self.vocab}-{self.max_positions}"

    def config(self) -> dict[str, Any]:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocab,
            "hidden_size": self.hidden, "intermediate_size": self.ffn, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "hidden_act": "silu", "rms_norm_eps": _EPS, "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "bos_token_id": 1,
            "eos_token_id": 2, "torch_dtype": "bfloat16", "rope_theta": _ROPE_THETA,
        }  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in Hugging Face's spelling, in the order of the files."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for i in range(self.layers):
            layer = f"model.layers.{i}"
            yield f"{layer}.input_layernorm.weight", (self.hidden,)
            yield f"{layer}.self_attn.q_proj.weight", (q, self.hidden)
            yield f"{layer}.self_attn.k_proj.weight", (kv, self.hidden)
            yield f"{layer}.self_attn.v_proj.weight", (kv, self.hidden)
            yield f"{layer}.self_attn.o_proj.weight", (self.hidden, q)
            yield f"{layer}.post_attention_layernorm.weight", (self.hidden,)
            yield f"{layer}.mlp.gate_proj.weight", (self.ffn, self.hidden)
            yield f"{layer}.mlp.up_proj.weight", (self.ffn, self.hidden)
            yield f"{layer}.mlp.down_proj.weight", (self.hidden, self.ffn)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)

    def kv_bytes(self, tokens: int, element_bytes: int = 2) -> int:
        """Bytes of keys and values of so many tokens."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * element_bytes

    def prefill_flops(self, tokens: int) -> float:
        """Multiplications and additions of a prompt: products with weights, lm_head for the last token alone, and
        causal attention."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = self.hidden * (2 * q + 2 * kv) + 3 * self.hidden * self.ffn
        attended = tokens * (tokens + 1) / 2
        products = tokens * self.layers * layer + self.vocab * self.hidden
        return 2.0 * products + 4.0 * self.layers * q * attended


def write(size: Size, folder: Path) -> Path:
    """The checkpoint's folder below `folder`: config.json and model.safetensors. Made if it is not there yet.

    It is written under another name and renamed, so what is there is whole.
    """
    final = folder / size.name
    if (final / "config.json").is_file():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{size.name}-", dir=folder))
    try:
        (partial / "config.json").write_text(json.dumps(size.config(), indent=1))
        _write_safetensors(size, partial / "model.safetensors")
        partial.chmod(0o755)
        partial.rename(final)
    except OSError:
        if not (final / "config.json").is_file():  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _write_safetensors(size: Size, path: Path) -> None:
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in size.tensors():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    rng = np.random.default_rng(0)
    block = to_bf16(rng.standard_normal(_BLOCK, np.float32) * _SCALE)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in size.tensors():
            if len(shape) == 1:
                file.write(to_bf16(1 + rng.standard_normal(shape, np.float32) * _SCALE).tobytes())
                continue
            left, start = int(np.prod(shape)), int(rng.integers(_BLOCK))
            while left:
                piece = block[start : start + left]
                file.write(piece.data)
                left, start = left - len(piece), 0


def to_bf16(values: npt.NDArray[np.float32]) -> Bits:
    """Bits of the nearest bfloat16, ties to even; finite values only."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Bits) -> npt.NDArray[np.float32]:
    """The same values in float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read(folder: Path) -> dict[str, Bits]:
    """The tensors of a checkpoint of `write`, mapped, as bits."""
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    data: Bits = np.memmap(path, np.uint16, "r", offset=8 + length)
    return {
        name: data[slice(*(x // 2 for x in entry["data_offsets"]))].reshape(entry["shape"])
        for name, entry in header.items()
    }


_GGUF_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


def interleaved(rows: Bits, heads: int) -> Bits:
    """q_proj's or k_proj's rows as llama.cpp rotates them: pairs (2i, 2i+1) where Hugging Face has (i, i+n/2)."""
    n, width = rows.shape
    halves = rows.reshape(heads, 2, n // heads // 2, width)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(n, width)


def _gguf_tensors(size: Size, kind: str) -> list[gguf.Tensor]:
    found = []
    for name, shape in size.tensors():
        stored = "f32" if len(shape) == 1 else kind
        if name == "lm_head.weight" and kind == "q4_0":
            stored = "q8_0"
        found.append(gguf.Tensor(gguf_name(name), shape, stored))
    return found


def gguf_bytes(size: Size, kind: str) -> tuple[int, int]:
    """Bytes of all weights of a GGUF file, and of those that a decode step reads: all but the embedding."""
    sizes = [tensor.byte_size for tensor in _gguf_tensors(size, kind)]
    return sum(sizes), sum(sizes[1:])


def write_gguf(size: Size, folder: Path, kind: str) -> Path:
    """The checkpoint in `folder` as `KIND.gguf` beside it (bf16, q8_0, q4_0), made if it is not there yet.

    All matrices are of that kind, norms float32. The q4_0 file has `output` in q8_0, as zml's int4 keeps lm_head in
    int8. It has no vocabulary (`no_vocab`): it is used with token ids.
    """
    path = folder / f"{kind}.gguf"
    if path.is_file():
        return path
    weights = read(folder)
    metadata: Mapping[str, gguf.Value] = {
        "general.architecture": "llama",
        "general.name": size.name,
        "general.file_type": gguf.FILE_TYPES[kind],
        "llama.block_count": size.layers,
        "llama.context_length": size.max_positions,
        "llama.embedding_length": size.hidden,
        "llama.feed_forward_length": size.ffn,
        "llama.attention.head_count": size.heads,
        "llama.attention.head_count_kv": size.kv_heads,
        "llama.attention.key_length": size.head_dim,
        "llama.attention.value_length": size.head_dim,
        "llama.attention.layer_norm_rms_epsilon": _EPS,
        "llama.rope.dimension_count": size.head_dim,
        "llama.rope.freq_base": _ROPE_THETA,
        "llama.vocab_size": size.vocab,
        "tokenizer.ggml.model": "no_vocab",
    }
    tensors = _gguf_tensors(size, kind)

    def chunks(index: int) -> Iterator[bytes]:
        (name, shape), stored = list(size.tensors())[index], tensors[index].kind
        bits = weights[name]
        if "q_proj" in name or "k_proj" in name:
            bits = interleaved(bits, size.heads if "q_proj" in name else size.kv_heads)
        # About a megabyte at a time stays in the cache.
        step = max(1, (1 << 18) // shape[-1]) if len(shape) > 1 else shape[0]
        for start in range(0, shape[0], step):
            part = bits[start : start + step]
            yield part.tobytes() if stored == "bf16" else gguf.encode(from_bf16(part), stored)

    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{kind}-", delete=False) as file:
        try:
            gguf.write(file, metadata, tensors, chunks)
            os.chmod(file.name, 0o644)  # noqa: PTH101
            Path(file.name).rename(path)
        except BaseException:
            Path(file.name).unlink()
            raise
    return path
