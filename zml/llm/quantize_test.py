"""Engines whose weights are quantized as they are loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.compile import ExecutableCache
from zml.errors import CheckpointError, UsageError
from zml.io import TensorStore, load
from zml.kernels.cpu.formats import Format, dequantize
from zml.kernels.cpu.quantize import quantize
from zml.llm.engine import Engine
from zml.llm.sampling import Sampling
from zml.model_tree import byte_size, named_leaves
from zml.models import Decoder
from zml.nn import Linear, QuantizedWeight
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.tensor import Tensor
from zml.testing import files, fresh, tiny

_PROMPT = [5, 6, 7, 300, 2, 9]


def _open(folder: Path, format: str, devices: int = 1, **arguments: Any) -> Engine:
    platform = Platform.init("cpu", CpuOptions(devices))
    return Engine.open(str(folder), platform, seqlen=40, quantize=format, **arguments)


def _write(folder: Path, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(files.tensors(arrays))
    return folder


def _logits(engine: Engine) -> np.ndarray:
    deployment = engine.deployment
    among = [deployment.sharding]
    store = TensorStore.open(engine.checkpoint.folder.url, engine.checkpoint.folder.vfs)
    weights = load(deployment.model, store, deployment.platform, shardings=among)

    def forward(model: Decoder, tokens: Tensor) -> Tensor:
        return model.forward(tokens)

    shape = Shape({"s": len(_PROMPT)}, "i32")
    exe = deployment.platform.compile(forward, deployment.model, shape, shardings=among)
    tokens = deployment.platform.put(np.array(_PROMPT, np.int32), shape, sharding=among[0])
    return exe(weights, tokens).numpy().astype(np.float64)


def _tokens(engine: Engine) -> list[int]:
    engine.start(len(_PROMPT))
    pieces = engine.generate(_PROMPT, Sampling(), 12, ignore_eos=True)
    return [piece.token for piece in pieces if piece.token is not None]


def _rounded(name: str, array: np.ndarray, format: Format) -> np.ndarray:
    """What a quantized weight stands for; of other weights themselves."""
    if not name.endswith("proj.weight") and name != "lm_head.weight":
        return array
    return dequantize(quantize(array, Format.INT8 if name == "lm_head.weight" else format))


@pytest.mark.parametrize("model_type", tiny.CONFIGS)
def test_logits_are_those_of_the_rounded_weights(model_type: str, tmp_path: Path) -> None:
    config = tiny.CONFIGS[model_type]
    arrays = tiny.weights(config, int(fresh.generator().integers(2**31)))
    folder = _write(tmp_path / "model", config, arrays)
    exact = _logits(_open(folder, "none"))
    for format, most in (("int8", 0.06), ("int4", 0.6)):
        found = _logits(_open(folder, format))
        rounded = {name: _rounded(name, array, Format(format)) for name, array in arrays.items()}
        expected = _logits(_open(_write(tmp_path / format, config, rounded), "none"))
        apart = np.abs(found - expected) / exact.std()
        # The kernels round activations to 16 bits, or 8, and small models with large norms spread that.
        rounding = 1e-3 if format == "int8" else 0.06
        assert np.sqrt((apart**2).mean()) < rounding and apart.max() < 5 * rounding
        assert np.sqrt(((found - exact) ** 2).mean()) < most * exact.std()


def test_linear_layers_are_quantized_and_nothing_else(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path)
    for format, dtype in (("int8", "i8"), ("int4", "u8")):
        model = _open(folder, format).deployment.model
        dtypes = {path: leaf.dtype for path, leaf in named_leaves(model)}
        for path, found in dtypes.items():
            if path.endswith(".scales"):
                assert found == "bf16"
            elif path.endswith(".values"):
                # Of the output layer int4 would cost too much.
                assert found == ("i8" if path.startswith("lm_head") else dtype)
            else:
                assert found == "f32" and ("norm" in path or path.startswith("embedding"))
        assert sum(path.endswith(".values") for path in dtypes) == 2 * 7 + 1


def test_an_output_layer_tied_to_the_embeddings_is_not_quantized(tmp_path: Path) -> None:
    config = tiny.CONFIG | {"tie_word_embeddings": True}
    folder = _write(tmp_path, config, tiny.weights(config))
    model = _open(folder, "int4").deployment.model
    assert model.lm_head is None and model.embedding.weight.dtype == "f32"


def test_what_is_counted_is_what_is_held(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path)
    dense, engine = _open(folder, "none"), _open(folder, "int8")
    _tokens(engine)
    table, head, norms = 4 * 320 * 32, 320 * 32, 4 * 5 * 32
    # q, k, v, o, and gate, up, down, the columns of the last padded from 48 to 64.
    layer = 32 * (32 + 16 + 16 + 32) + 32 * (48 + 48) + 64 * 32
    held = table + norms + (2 * layer + head) * 17 // 16
    assert byte_size(engine.deployment.model) == held
    plan = engine.memory_plan()
    assert plan.weights == held
    assert plan.checkpoint == dense.memory_plan().checkpoint == engine.timings.load_bytes
    assert engine.decode_weight_bytes() == held - table
    assert engine.deployment.dtype == "f32"


def test_over_devices_the_tokens_are_the_same(tmp_path: Path) -> None:
    """With two, heads and columns of `down` are cut in whole blocks or not at all; with four KV heads are repeated."""
    config = tiny.CONFIG | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    folder = _write(tmp_path, config, tiny.weights(config))
    expected = _tokens(_open(folder, "int4"))
    for devices in (2, 3, 4):
        engine = _open(folder, "int4", devices)
        assert _tokens(engine) == expected
        q, k = (getattr(engine.deployment.model.layers[0].attention, x) for x in "qk")
        assert isinstance(q, Linear) and isinstance(q.weight, QuantizedWeight)
        cut = q.weight.values.shape.partition("rows")
        assert (cut == "model") == (devices != 3)
        assert k.weight.values.dim("rows") == (4 if devices == 4 else 2)


def test_the_executable_cache_tells_formats_apart(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    for again in (False, True):
        for format in ("none", "int8"):
            platform = Platform.init("cpu", cache=ExecutableCache(tmp_path / "cache"))
            engine = Engine.open(str(folder), platform, seqlen=40, quantize=format)
            engine.start(5)
            assert engine.timings.compile_cached == again


def test_weights_of_other_types_and_activations_of_all(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float16) for name, array in tiny.weights().items()}
    folder = _write(tmp_path, tiny.CONFIG, arrays)
    exact = _logits(_open(folder, "none"))
    for dtype, most in (("float32", 0.06), ("float16", 0.06), ("bfloat16", 0.1)):
        off = _logits(_open(folder, "int8", dtype=dtype)) - exact
        assert np.sqrt((off**2).mean()) < most * exact.std()


def test_what_cannot_be_quantized_is_an_error(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path)
    with pytest.raises(UsageError, match="--quantize=int5: expected one of none, int8, int4"):
        _open(folder, "int5")
    arrays = tiny.weights()
    name = "model.layers.1.mlp.up_proj.weight"
    arrays[name][3, 7] = np.nan
    _write(folder, tiny.CONFIG, arrays)
    with pytest.raises(CheckpointError, match=rf"tensor '{name}' has nan at \[3, 7\]"):
        _open(folder, "int8").start()
