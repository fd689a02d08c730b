"""The benchmark's files are what their formats say, and its report is what was measured. Speed is for no test."""

import io
import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from tools.bench import child, limits
from tools.bench.limits import Limit, Limits
from tools.bench.llm import checkpoint, gguf, report
from tools.bench.llm.checkpoint import Size
from tools.bench.llm.contenders import Contender, Work, find_peers, select
from tools.bench.llm.main import main, options_of
from tools.bench.llm.peers import driver, process

TINY = Size(2, 64, 96, 4, 2, 16, 160, 256)
Floats = npt.NDArray[np.float32]


def random_values(shape: tuple[int, ...]) -> Floats:
    rng = np.random.default_rng()
    return (rng.standard_normal(shape) * np.exp(rng.normal(0, 3, (*shape[:-1], 1)))).astype(
        np.float32
    )


# ---- Formats ----


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.concatenate([random_values((50, 64)).ravel(), [0.0, -0.0, 1.00390625, 1.01171875]])
    values = values.astype(np.float32)
    bits = checkpoint.to_bf16(values)
    np.testing.assert_array_equal(bits, values.astype(ml_dtypes.bfloat16).view(np.uint16))
    np.testing.assert_array_equal(
        checkpoint.from_bf16(bits), bits.view(ml_dtypes.bfloat16).astype(np.float32)
    )


def scalar_q8_0(block: Floats) -> tuple[np.float16, list[int]]:
    d = max(abs(float(x)) for x in block) / 127
    return np.float16(d), [int(np.floor(abs(x) / d + 0.5) * np.sign(x)) if d else 0 for x in block]


def scalar_q4_0(block: Floats) -> tuple[np.float16, list[int]]:
    d = float(max(block, key=abs)) / -8
    q = [min(15, int(float(x) / d + 8.5)) if d else 8 for x in block]
    return np.float16(d), [low | high << 4 for low, high in zip(q[:16], q[16:], strict=True)]


@pytest.mark.parametrize(
    ("kind", "scalar", "element", "count"),
    [("q8_0", scalar_q8_0, "i1", 32), ("q4_0", scalar_q4_0, "u1", 16)],
)
def test_blocks_follow_ggml(kind: str, scalar: Any, element: str, count: int) -> None:
    values = random_values((40, 96))
    values[3, 32:64] = 0
    data = gguf.encode(values, kind)
    blocks = np.frombuffer(data, [("d", "<f2"), ("q", element, count)])
    off = 0
    for given, block in zip(blocks, values.reshape(-1, 32), strict=True):
        d, q = scalar(block)
        assert given["d"] == pytest.approx(float(d), rel=1e-3)  # float32 may round the other way
        off += int((given["q"] != q).sum())
    assert off <= 4  # ties, which float32 sees elsewhere than double
    scale = np.abs(blocks["d"].astype(np.float32))[:, None]
    # Half a step, a whole one at q4_0's short end, and the rounding of the scale, which may be a subnormal float16.
    bound = scale * (0.5 if kind == "q8_0" else 1.0) + np.abs(values.reshape(-1, 32)) * 1e-3
    bound += 128 * 2.0**-25
    assert (np.abs(gguf.dequantize(data, kind) - values.reshape(-1, 32)) <= bound).all()


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        _ = gguf.Tensor("x", (4, 48), "q8_0").byte_size


def parse_gguf(path: Path) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, bytes]]]:
    """A reader of our own subset: metadata, and shape, type and bytes of each tensor."""
    file = io.BytesIO(path.read_bytes())

    def take(form: str) -> Any:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]

    def text() -> str:
        return file.read(take("Q")).decode()

    assert file.read(4) == b"GGUF" and take("I") == 3
    tensors, pairs = take("Q"), take("Q")
    metadata = {}
    for _ in range(pairs):
        key, kind = text(), take("I")
        metadata[key] = text() if kind == 8 else take({4: "I", 6: "f", 7: "?"}[kind])
    infos = []
    for _ in range(tensors):
        name, axes = text(), take("I")
        shape = tuple(take("Q") for _ in range(axes))[::-1]
        infos.append((name, shape, take("I"), take("Q")))
    start = file.tell() + -file.tell() % 32
    found = {}
    for name, shape, kind, offset in infos:
        assert offset % 32 == 0
        bits = {0: 32, 30: 16, 8: 8.5, 2: 4.5}[kind]
        size = int(np.prod(shape) * bits / 8)
        file.seek(start + offset)
        found[name] = (shape, kind, file.read(size))
        assert len(found[name][2]) == size
    return metadata, found


def test_checkpoint_is_written_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_safetensors", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoint.write(TINY, tmp_path)
        assert not list(tmp_path.iterdir())
    folder = checkpoint.write(TINY, tmp_path)
    before = (folder / "model.safetensors").stat()
    assert checkpoint.write(TINY, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    weights = checkpoint.read(folder)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    assert set(stored) == set(weights)
    for name, shape in TINY.tensors():
        assert weights[name].shape == shape == stored[name].shape
        assert stored[name].dtype == ml_dtypes.bfloat16
        assert weights[name].tobytes() == stored[name].tobytes()
    table = checkpoint.from_bf16(weights["lm_head.weight"])
    assert len(np.unique(table, axis=0)) == len(table)
    assert 0.018 < table.std() < 0.022


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q4_0"])
def test_gguf_has_the_same_weights(tmp_path: Path, kind: str) -> None:
    folder = checkpoint.write(TINY, tmp_path)
    path = checkpoint.write_gguf(TINY, folder, kind)
    metadata, tensors = parse_gguf(path)
    assert metadata["llama.attention.head_count_kv"] == 2 and metadata["llama.vocab_size"] == 160
    weights = checkpoint.read(folder)
    assert set(tensors) == {checkpoint.gguf_name(name) for name in weights}
    total, decoded = checkpoint.gguf_bytes(TINY, kind)
    assert total == sum(len(data) for _, _, data in tensors.values())
    assert total - decoded == len(tensors["token_embd.weight"][2])
    for name, bits in weights.items():
        shape, number, data = tensors[checkpoint.gguf_name(name)]
        assert shape == bits.shape
        expected = bits
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            expected = checkpoint.interleaved(bits, 4 if "q_proj" in name else 2)
        values = checkpoint.from_bf16(expected)
        stored = {0: "f32", 30: "bf16", 8: "q8_0", 2: "q4_0"}[number]
        if bits.ndim == 1:
            assert stored == "f32"
        else:
            assert stored == ("q8_0" if (kind, name) == ("q4_0", "lm_head.weight") else kind)
        assert data == (expected.tobytes() if stored == "bf16" else gguf.encode(values, stored)), (
            name
        )
    assert [x for x in folder.iterdir() if x.name.startswith(".")] == []


def test_interleaved_rows_rotate_alike() -> None:
    """RoPE of pairs (i, i + n/2) and then reordering is reordering and then RoPE of pairs (2i, 2i + 1)."""
    heads, n, width = 3, 8, 5
    rng = np.random.default_rng()
    rows = rng.integers(0, 1 << 15, (heads * n, width)).astype(np.uint16)
    angle = rng.normal(size=n // 2)
    x = rng.normal(size=width)

    def turned(y: npt.NDArray[Any], halves: bool) -> npt.NDArray[Any]:
        a, b = (y[:, : n // 2], y[:, n // 2 :]) if halves else (y[:, ::2], y[:, 1::2])
        parts = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return np.stack(parts, axis=2)  # heads, pair, both of a pair

    ours = turned((rows @ x).reshape(heads, n), halves=True)
    theirs = turned((checkpoint.interleaved(rows, heads) @ x).reshape(heads, n), halves=False)
    np.testing.assert_allclose(ours, theirs)


def test_prefill_flops() -> None:
    tokens = 5
    matrices = [shape for name, shape in TINY.tensors() if len(shape) == 2 and "layers" in name]
    products = sum(2 * a * b for a, b in matrices) * tokens + 2 * TINY.vocab * TINY.hidden
    # q k and p v, for each layer, query, key before it, and head
    scores = sum(4 * TINY.head_dim * TINY.heads * (i + 1) for i in range(tokens)) * TINY.layers
    assert TINY.prefill_flops(tokens) == products + scores


# ---- Limits ----


def test_limits() -> None:
    if "TEST_SRCDIR" in os.environ:
        assert limits.library() is not None, "Bazel builds the probes"
    found = limits.measure(threads=2, megabytes=8, passes=3)
    for limit in (found.read, found.f32, found.bf16):
        assert 0.01 < limit.median <= limit.max < 1e6 and limit.how
        assert ("numpy" in limit.how) == (limits.library() is None)


def test_limits_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "library", lambda: None)
    found = limits.measure(threads=2, megabytes=8, passes=3)
    assert "no native probe" in found.read.how and 0 < found.read.median <= found.read.max
    assert found.bf16.how.startswith("as f32")


def test_limits_over_rounds() -> None:
    def one(x: float) -> Limits:
        return Limits(2, Limit(x, x + 1, "a"), Limit(2 * x, 9, "b"), Limit(x, x, "c"))

    found = limits.combined([one(1), one(5), one(2)])
    assert found == Limits(2, Limit(2, 6, "a"), Limit(4, 9, "b"), Limit(2, 5, "c"))


# ---- Processes ----


def test_process() -> None:
    began = time.monotonic()
    assert 0 <= process.age(began) < 3600
    ballast = np.ones(1 << 22)
    assert process.peak_rss() > ballast.nbytes


def test_lock_gives_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = child.Lock(tmp_path / "lock", wait=0)
    with lock.held(), lock.held():
        assert "still locked" in capsys.readouterr().err
    with lock.held():
        assert capsys.readouterr().err == ""


def test_a_child_that_fails(tmp_path: Path) -> None:
    assert "No module named" in child.run(None, "tools.bench.llm.absent", {})["error"]


class Adder:
    """A peer whose next token is the sum of all so far, modulo 100."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.sequence: list[int] = []
        self.calls: list[int] = []

    def clear(self) -> None:
        self.sequence = []

    def extend(self, tokens: list[int]) -> int:
        self.sequence += tokens
        self.calls.append(len(tokens))
        return sum(self.sequence) % 100

    def about(self) -> dict[str, Any]:
        return {"about": {"calls": list(self.calls)}}


def test_driver(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [{"prefill": 2, "prompt": [1, 2]}, {"prefill": 3, "prompt": [5, 6, 7, 8]}]
    job = {
        "runs": runs, "decode_tokens": 2, "started": time.monotonic(), "first_prompt": 1, "pairs": 2, "pair_steps": 3,
        "threads": 1, "probe_megabytes": 1,
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    driver.run(Adder)
    answer = json.loads(capsys.readouterr().out)
    assert [run["tokens"] for run in answer["runs"]] == [[3, 6, 12], [26, 52, 4]]
    assert answer["about"]["calls"] == [1, 2, 1, 2, 1, 1, 3, 1, 1, 1]
    for run in answer["runs"]:
        assert len(run["pairs"]) == 2 and all(x > 0 for pair in run["pairs"] for x in pair)
    assert answer["first_token_warm_seconds"] > answer["load_seconds"] >= 0


# ---- The report ----


def sample(seconds: float, tokens: list[int], other: float = 0.0) -> dict[str, Any]:
    run = {
        "prefill_seconds": seconds, "decode_seconds": 2 * seconds, "tokens": tokens,
        "pairs": [(1.0, 10.0), (2.0, 10.0), (0.1, 100.0)],
    }  # fmt: skip
    return {
        "runs": [run], "weight_bytes": 5e9, "model_bytes": 6e9, "kv_cache_bytes": 1e9, "peak_rss_bytes": 8e9,
        "load_seconds": seconds, "other_cpu": other, "about": {},
    }  # fmt: skip


def test_report() -> None:
    work = Work(TINY, Path(), [{"prefill": 8, "prompt": [1] * 12}], 4, 2)
    assert work.context == 256
    machine = Limits(2, Limit(20, 25, "r"), Limit(100, 110, "f"), Limit(100, 110, "f"))
    zml = Contender("zml", "bf16", [sample(1, [1, 2, 3, 4, 5]), sample(9, [1] * 5, other=0.5)])
    for one, share in zip(zml.samples, (0.02, 0.9), strict=True):
        one["runs"][0]["python_share"] = share
    peer = Contender("llama.cpp", "bf16", [sample(2, [1, 2, 3, 9, 5])])
    absent = Contender("zml", "int8", problem="not there yet")
    found = report.medians(zml, work, machine)
    assert found["prefill_8_tokens_per_second"] == 8
    assert found["decode_12_tokens_per_second"] == 2
    assert found["decode_12_weight_gb_per_second"] == 10 and found["decode_12_share_of_read"] == 0.5
    assert found["rss_over_weights_and_kv_bytes"] == 1e9
    assert found["decode_12_python_share"] == 0.02
    assert "decode_12_python_share" not in report.medians(peer, work, machine)
    assert report.agreement(zml, peer) == (3, 5)
    text = report.table([zml, peer, absent], work, machine)
    lines = {line[:28].strip(): line[28:].split() for line in text.splitlines()}
    assert lines["prefill of 8, tok/s"] == ["8.000", "4.000", "2.00"]
    assert lines["load, s"] == ["1.000", "2.000", "0.50"]
    assert "1 of 2 rounds; these are not counted" in text
    assert "int8 zml: not there yet" in text and "3 of 5" in text
    described = report.as_json([zml, peer, absent], work, machine)
    assert described["int8"]["zml"]["problem"] == "not there yet"
    assert len(described["bf16"]["zml"]["samples"]) == 2


# ---- The command line ----


@pytest.mark.parametrize(
    "flags",
    [
        ["--formats=q5"],
        ["--only=vllm"],
        ["--prefill=8,16", "--decode=8"],
        ["--prefill=16", "--decode=8"],
        ["--rounds=0"],
        ["--decode=256,8192"],
        ["--kv_heads=3"],
    ],
)
def test_misuse(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options_of(flags)
    assert caught.value.code == 2


def test_quick_changes_defaults_alone() -> None:
    options = options_of(["--quick", "--layers=3"])
    assert (options.layers, options.hidden, options.rounds) == (3, 64, 1)


def test_peers_that_are_not_there() -> None:
    with pytest.raises(SystemExit, match="has neither"):
        find_peers([sys.executable])
    with pytest.raises(SystemExit, match="does not run"):
        find_peers(["/nonexistent/python"])
    found = select(["bf16", "int4", "f32"], {"llama.cpp": "a", "transformers": "b"}, [], {})
    assert [(x.name, x.format) for x in found] == [
        ("zml", "bf16"), ("llama.cpp", "bf16"), ("transformers", "bf16"), ("zml", "int4"), ("llama.cpp", "int4"),
        ("zml", "f32"), ("transformers", "f32"),
    ]  # fmt: skip


def test_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--json", "--formats=bf16", f"--work_dir={tmp_path}"]) == 0
    found = json.loads(capfd.readouterr().out)
    zml = found["formats"]["bf16"]["zml"]
    assert set(zml["medians"]) >= {
        "prefill_8_tokens_per_second", "prefill_24_share_of_peak", "decode_40_tokens_per_second",
        "decode_40_share_of_read", "first_token_cold_seconds", "first_token_warm_seconds", "load_seconds",
        "peak_rss_bytes", "rss_over_weights_and_kv_bytes",
    }  # fmt: skip
    assert all(value > 0 for name, value in zml["medians"].items() if name != "other_cpu")
    assert [len(run["tokens"]) for run in zml["samples"][0]["runs"]] == [5, 5]
    # bfloat16: all weights but the embedding.
    size = found["model"]
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 + 2 * 64
    expected = 2 * (size["layers"] * layer + 64 + size["vocab"] * 64)
    assert zml["samples"][0]["weight_bytes"] == expected
    assert found["limits"]["read"]["median"] > 0 and found["machine"]["threads"] >= 1
