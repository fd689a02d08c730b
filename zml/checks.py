"""Checks on values that come out of JSON files, which may hold anything."""

import math
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number that is finite as a float: not a bool, not Infinity or NaN, not 10^400."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
