import jax
import numpy as np
import pytest

from zml.errors import UnsupportedError
from zml.io import WeightSpec
from zml.platform import Platform


@pytest.mark.parametrize("target", ["cuda", "tpu", "", "CPU"])
def test_a_target_that_is_not_there_is_refused(target: str) -> None:
    with pytest.raises(UnsupportedError, match=f"platform {target!r} is not supported yet"):
        Platform.init(target)


def test_platforms_are_private_and_independent() -> None:
    one, three = Platform.init(), Platform.init(device_count=3)
    assert (one.device_name, three.device_name) == ("cpu", "3 x cpu")
    assert not set(one.devices) & set(three.devices)
    assert one.put(np.ones(3)).devices() == set(one.devices)
    assert three.put(np.ones(3)).devices() == set(three.devices)


def test_an_axis_is_split_where_it_divides_and_replicated_where_not() -> None:
    platform = Platform.init(device_count=2)
    for spec, shard in [
        (WeightSpec("a", (4, 3), 0), (2, 3)),
        (WeightSpec("b", (3, 4), 1), (3, 2)),
        (WeightSpec("c", (3, 4), 0), (3, 4)),
        (WeightSpec("d", (4,), None), (4,)),
        (WeightSpec("e", (), None), ()),
    ]:
        host = np.arange(spec.size, dtype=np.float32).reshape(spec.shape)
        placed = platform.place(spec, host)
        assert [s.data.shape for s in placed.addressable_shards] == [shard, shard]
        np.testing.assert_array_equal(np.asarray(placed), host)


def test_nothing_is_added_to_the_default_backend() -> None:
    before = jax.devices()
    Platform.init(device_count=2)
    assert jax.devices() == before
