import math

import pytest

from zml.checks import is_number


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.5, 10**300, -5e-324])
def test_finite_numbers_are_numbers(value: object) -> None:
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", [], {}, 10**400, math.inf, -math.inf, math.nan])
def test_anything_else_is_none(value: object) -> None:
    assert not is_number(value)
