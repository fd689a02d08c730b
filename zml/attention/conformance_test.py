from collections.abc import Iterator

import jax
import pytest

from zml.attention import Attention, Backend, rows
from zml.shape import Shape
from zml.testing.attention import CASES, Case, check


class _Cpu:
    target = "cpu"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", [b for b in Backend if b.is_available(_Cpu())], ids=str)
def test_backend(backend: Backend, case: Case) -> None:
    check(Attention.using(backend), case)


def _computed(backend: Backend) -> Iterator[object]:
    """The cases that a kernel computes itself, of those that it is to be tried on."""
    for case in CASES:
        q = Shape({"q": case.queries, "h": case.heads, "hd": case.head_dim}, case.dtype)
        k = Shape({"h": case.kv_heads, "k": case.length, "hd": case.head_dim}, case.dtype)
        # The two for NVIDIA are one kernel with other blocks.
        other = backend is Backend.CUDA_FA3 and "bf16-long" not in case.name
        if not other and backend.implementation.supports(q, k, case.parameters):
            yield pytest.param(backend, case, id=f"{backend}-{case}")


_KERNELS = (Backend.MOSAIC_TPU, Backend.CUDA_FA2, Backend.CUDA_FA3)


@pytest.fixture
def quickly() -> Iterator[None]:
    """Each program runs three times on little data: most of the time would go into making it fast."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(("backend", "case"), [x for b in _KERNELS for x in _computed(b)])
def test_kernel_of_absent_hardware(backend: Backend, case: Case) -> None:
    with rows.interpreted():
        check(Attention.using(backend), case)


def test_each_kernel_is_tried_on_most_of_the_suite() -> None:
    counts = {backend: len(list(_computed(backend))) for backend in _KERNELS}
    assert counts[Backend.MOSAIC_TPU] > 60
    assert counts[Backend.CUDA_FA2] > 60
    assert counts[Backend.CUDA_FA3] == 2
