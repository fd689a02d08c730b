import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zml.io.memory import ALIGNMENT, Slabs, aligned


def test_arrays_are_aligned_and_their_own() -> None:
    slabs = Slabs()
    dims = [(), (0,), (1,), (3, 5), (1 << 20,), (70 << 18,), (7,)]
    with ThreadPoolExecutor(3) as pool:
        arrays = list(pool.map(lambda d: slabs.array(d, np.dtype(np.float32)), dims * 5))
    for number, array in enumerate(arrays):
        assert array.shape == dims[number % len(dims)]
        assert array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous
        array[...] = number
    for number, array in enumerate(arrays):
        assert (array == number).all()


def test_a_slab_goes_with_its_last_array() -> None:
    slabs = Slabs()
    first, second = (slabs.array((1000,), np.dtype(np.int8)) for _ in range(2))
    base = first
    while isinstance(base.base, np.ndarray):
        base = base.base
    gone = weakref.ref(base)
    slabs.array((65 << 20,), np.dtype(np.int8))  # another slab
    del first, base
    gc.collect()
    assert gone() is not None
    del second
    gc.collect()
    assert gone() is None


def test_one_array_alone_is_aligned_too() -> None:
    assert aligned((3, 7), np.dtype(np.float64)).ctypes.data % ALIGNMENT == 0
