"""Random inputs that are new in every run; a failure shows the seed that they came from."""

import secrets

import numpy as np


def generator() -> np.random.Generator:
    """A generator with a fresh seed, which is printed: pytest shows what a failed test printed."""
    seed = secrets.randbits(32)
    print(f"fresh.generator: np.random.default_rng({seed})")
    return np.random.default_rng(seed)
