import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest

from zml.attention import Attention, Backend, KvCache, Parameters, attention, rows
from zml.attention.base import Metadata
from zml.errors import ShapeError, UnsupportedError, UsageError
from zml.kernels.cpu import library
from zml.model_tree import leaves
from zml.tensor import Tensor


class _Cpu:
    target = "cpu"


def _zeros(dtype: str = "float32", /, **dims: int) -> Tensor:
    return Tensor(np.zeros(tuple(dims.values()), dtype), dims)


def _inputs(**changes: int) -> list[Tensor]:
    dims = {"q": 3, "h": 4, "k": 5, "hd": 8, "kv": 2} | changes
    cached = _zeros(h=dims["kv"], k=dims["k"], hd=dims["hd"])
    return [_zeros(q=dims["q"], h=dims["h"], hd=dims["hd"]), cached, cached]


class _Cuda:
    target = "cuda"


@dataclass(frozen=True)
class _Device:
    attributes: Mapping[str, str]


class _Accelerator:
    def __init__(self, target: str, capability: str | None = None) -> None:
        self.target = target
        self.devices = [_Device({} if capability is None else {"compute_capability": capability})]


class _Plugin(_Cpu):
    has_kernels = False


def test_auto_takes_what_is_available() -> None:
    native = Backend.CPU_FLASH if library.available() else Backend.VANILLA
    assert Backend.auto(_Cpu()) is native
    assert Backend.auto(_Cuda()) is Backend.VANILLA
    assert Backend.auto(_Plugin()) is Backend.VANILLA
    assert bool(Backend.VANILLA.is_available(_Cpu()))
    missing = Backend.NKI.is_available(_Cpu())
    assert not missing
    assert missing.reason == "not in this build"


@pytest.mark.parametrize(
    ("target", "capability", "backend"),
    [
        ("cuda", "8.0", "cuda_fa2"),
        ("cuda", "8.9", "cuda_fa2"),
        ("cuda", "9.0", "cuda_fa3"),
        ("cuda", "10.0", "cuda_fa2"),
        ("cuda", "12.0", "cuda_fa2"),
        ("cuda", "7.5", "vanilla"),
        ("cuda", None, "vanilla"),
        ("rocm", "gfx942", "vanilla"),
        ("tpu", None, "mosaic_tpu"),
        ("neuron", None, "vanilla"),
    ],
)
def test_auto_goes_by_platform_and_compute_capability(
    target: str, capability: str | None, backend: str
) -> None:
    platform = _Accelerator(target, capability)
    assert Backend.auto(platform) == backend
    assert Backend.of(backend).is_available(platform)


@pytest.mark.parametrize(
    ("backend", "target", "capability", "said"),
    [
        ("cuda_fa3", "cpu", None, "for NVIDIA GPUs of compute capability 9.0, not for cpu"),
        ("cuda_fa3", "cuda", "8.9", "not for 8.9"),
        ("cuda_fa3", "cuda", "10.0", "not for 10.0"),
        ("cuda_fa2", "cuda", "7.5", "8.0 and above, not for 7.5"),
        ("cuda_fa2", "cuda", None, "does not say its compute capability"),
        ("cuda_fa2", "rocm", "gfx942", "not for rocm"),
        ("mosaic_tpu", "cuda", "9.0", "for TPUs, not for cuda"),
    ],
)
def test_a_kernel_says_what_it_is_for(
    backend: str, target: str, capability: str | None, said: str
) -> None:
    found = Backend.of(backend).is_available(_Accelerator(target, capability))
    assert said in str(found.reason)


@pytest.mark.parametrize(
    ("backend", "dtype", "dims", "said"),
    [
        ("mosaic_tpu", "float16", {}, "its queries are f32, bf16, not f16"),
        ("mosaic_tpu", "float32", {"hd": 512}, "its head dims are 8, ..., 256, not 512"),
        ("mosaic_tpu", "float32", {"k": 7}, "it takes 8 keys or more"),
        ("cuda_fa2", "float32", {"hd": 80}, "its head dims are 16, 32, 64, 128, 256, not 80"),
        ("cuda_fa3", "float8_e5m2", {"hd": 64}, "its queries are f32, bf16, f16, not f8e5m2"),
    ],
)
def test_what_a_kernel_does_not_do_the_next_backend_does(
    backend: str, dtype: str, dims: dict[str, int], said: str
) -> None:
    q, k, v = (x.convert(dtype) for x in _inputs(**dims))
    with pytest.raises(UnsupportedError, match=f"{backend}: {said}"):
        Attention.using(backend)(q, k, v)
    assert Attention.using(backend, "vanilla", "vanilla")(q, k, v).shape == q.shape


def test_values_of_another_head_dim() -> None:
    rng = np.random.default_rng()
    q, k = (Tensor(rng.standard_normal((2, 9, 64)).astype("f"), ("h", x, "hd")) for x in "qk")
    v = Tensor(rng.standard_normal((2, 9, 80)).astype("f"), ("h", "k", "hd"))
    expected = attention(q, k, v).value
    with rows.interpreted():
        for backend in ("mosaic_tpu", "cuda_fa2"):
            for width in (80, 32):
                some = v.slice(hd=(0, width))
                got = Attention.using(backend)(q, k, some)
                np.testing.assert_allclose(
                    got.value, expected[..., :width], rtol=1e-4, atol=1e-5, err_msg=backend
                )


@pytest.mark.parametrize(
    ("platform", "said"),
    [(_Cuda(), "for the CPU, not for cuda"), (_Plugin(), "no native kernels"), (_Cpu(), "lost")],
)
def test_the_native_backend_says_why_it_is_not_available(
    platform: _Cpu | _Cuda, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "load", lambda: library.Missing("lost"))
    assert said in str(Backend.CPU_FLASH.is_available(platform).reason)


def test_the_native_backend_is_refused_where_its_library_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "load", lambda: library.Missing("lost"))
    with pytest.raises(UnsupportedError, match="cpu_flash: lost"):
        Attention.using("cpu_flash")(*_inputs())
    assert Attention.using("cpu_flash", "vanilla")(*_inputs()).tags == ("q", "h", "hd")


@pytest.mark.parametrize(("name", "said"), [("nki", "is not in this build"), ("fa9", "is unknown")])
def test_a_backend_that_is_not_there_is_an_error_that_names_those_that_are(
    name: str, said: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"{name}.*{said}; there is .*cpu_flash, vanilla"):
        Attention.using(name)


def test_attention_is_static_data_that_a_program_can_be_compiled_for() -> None:
    assert leaves(attention) == []
    traced = []

    @jax.jit
    def f(attend: Attention, xs: list[Tensor]) -> Tensor:
        traced.append(attend.backends)
        return attend(*xs)

    f(attention, _inputs())
    f(Attention.using("vanilla"), _inputs())
    assert traced == [(Backend.VANILLA,)]


def test_what_no_backend_takes_is_an_error_with_each_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zml.attention import vanilla
    from zml.attention.base import Availability

    monkeypatch.setattr(vanilla, "supports", lambda q, k, p: Availability("no such head dim"))
    with pytest.raises(UnsupportedError, match=r"q \{q=3,.*window=None.*vanilla: no such head dim"):
        attention(*_inputs())


def test_any_order_of_axes_gives_the_order_of_the_queries() -> None:
    rng = np.random.default_rng()
    q = Tensor(rng.standard_normal((2, 3, 4, 8)).astype("float32"), ("b", "q", "h", "hd"))
    k, v = (
        Tensor(rng.standard_normal((2, 2, 5, 8)).astype("float32"), ("b", "h", "k", "hd"))
        for _ in range(2)
    )
    expected = attention(q, k, v, start=2)
    mixed = attention(
        q.transpose("h", "hd", "b", "q"),
        k.transpose("k", "b", "hd", "h"),
        v.transpose("hd", ...),
        start=2,
    )
    assert mixed.tags == ("h", "hd", "b", "q")
    np.testing.assert_allclose(
        mixed.transpose("b", "q", "h", "hd").value, expected.value, rtol=1e-5, atol=1e-6
    )


def test_keys_without_the_batch_axis_are_shared_by_it() -> None:
    rng = np.random.default_rng()
    q = Tensor(rng.standard_normal((2, 3, 4, 8)).astype("float32"), ("b", "q", "h", "hd"))
    k = Tensor(rng.standard_normal((2, 5, 8)).astype("float32"), ("h", "k", "hd"))
    got = attention(q, k, k, start=2)
    for b in range(2):
        alone = attention(q.choose(b=b), k, k, start=2)
        np.testing.assert_allclose(got.choose(b=b).value, alone.value, rtol=1e-5, atol=1e-6)


def test_a_cache_of_another_type_is_converted() -> None:
    q, k, v = _inputs()
    got = attention(q.convert("bf16"), k, v)
    assert got.dtype == "bf16"
    assert attention(q, k.convert("f8e4m3fn"), v.convert("f8e4m3fn")).dtype == "f32"


def test_scores_of_float16_do_not_overflow() -> None:
    # A score of 100 * 100 * 64 is beyond float16, and within float32.
    q = Tensor(np.full((1, 1, 64), 100, np.float16), ("q", "h", "hd"))
    k = Tensor(np.full((1, 2, 64), 100, np.float16), ("h", "k", "hd"))
    v = Tensor(
        np.stack([np.ones((1, 64)), np.zeros((1, 64))], 1).astype(np.float16), ("h", "k", "hd")
    )
    np.testing.assert_array_equal(attention(q, k, v, start=1).value, np.float16(0.5))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"h": 5}, "5 query heads do not make equal groups for 2"),
        ({"kv": 0}, "do not make equal groups for 0"),
    ],
)
def test_heads_that_do_not_fit(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        attention(*_inputs(**changes))


def test_shapes_that_do_not_fit_are_named() -> None:
    q, k, v = _inputs()
    wrong: list[tuple[list[Tensor], str]] = [
        ([q.rename(q="s"), k, v], "q has no axis 'q'"),
        ([q, k.rename(k="s"), v], "k has no axis 'k'"),
        ([q, k, v.slice(k=(0, 4))], "the dims of 'k' differ"),
        ([q, k.slice(hd=(0, 4)), v], "the dims of 'hd' differ"),
        ([q, k.insert("b"), v.insert("b")], "the batch axes differ"),
        ([q.insert("b"), k.insert("b"), v], "the batch axes differ"),
        ([q.convert("i32"), k, v], "q has no float elements"),
        ([q.insert("k"), k, v], "q has an axis 'k'"),
    ]
    for xs, said in wrong:
        with pytest.raises(ShapeError, match=said) as error:
            attention(*xs)
        assert str(xs[0].shape) in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": -1}, "start is -1"),
        ({"lengths": -1}, "lengths is -1"),
        ({"start": Tensor(np.zeros(3, "int32"), ("q",))}, "start is {q=3,i32}"),
        ({"lengths": Tensor(np.float32(1), ())}, "lengths is {f32}"),
    ],
)
def test_numbers_that_do_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(said)):
        attention(*_inputs(), **options)


@pytest.mark.parametrize("options", [{"window": 0}, {"softcap": 0.0}, {"softcap": float("nan")}])
def test_parameters_without_a_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Parameters(**options)


def test_a_decode_step_neither_repeats_nor_moves_the_cache() -> None:
    # GQA over a long cache: what the step needs beside it is small, but for the branch that clears a NaN (one copy).
    q, cache = _zeros(q=1, h=32, hd=64), KvCache.declare(1, {"h": 8, "k": 4096, "hd": 64}, "f32")
    size = 2 * 8 * 4096 * 64 * 4

    def step(q: Tensor, new: Tensor, cache: KvCache, start: Tensor) -> tuple[Tensor, KvCache]:
        cache = cache.append(0, new, new, start)
        return attention(q, *cache.layer(0), start=start), cache

    arguments = (q, _zeros(k=1, h=8, hd=64), cache, Tensor(np.int32(7), ()))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    exe = jax.jit(step, donate_argnums=2).lower(*shapes).compile()
    memory, text = exe.memory_analysis(), exe.as_text()
    assert memory is not None and text is not None
    assert memory.alias_size_in_bytes == size
    assert memory.temp_size_in_bytes < 0.6 * size
    moved = re.findall(r"= f32\[8,4096,64\]\S* (\S+)\(", text.split("ENTRY")[1])
    assert not {"copy", "transpose", "convert"} & set(moved)


def test_there_is_no_scratch() -> None:
    q, k, _ = _inputs()
    scratch = Backend.VANILLA.implementation.metadata(q.shape, k.shape, Parameters())
    assert leaves(scratch) == []
    assert isinstance(attention.metadata, Metadata)
