import pytest

from zml.attention import Attention, Backend
from zml.testing.attention import CASES, Case, check


class _Cpu:
    target = "cpu"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", [b for b in Backend if b.is_available(_Cpu())], ids=str)
def test_backend(backend: Backend, case: Case) -> None:
    check(Attention.using(backend), case)
