import pytest

from zml.units import binary_size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1, "1B"),
        (1023, "1023B"),
        (1023.7, "1.00KiB"),
        (1024, "1.00KiB"),
        (12345678, "11.77MiB"),
        (1024**2 - 1, "1.00MiB"),
        (1024**3 - 1, "1.00GiB"),
        (16_060_522_496, "14.96GiB"),
        (5 * 1024**4, "5120.00GiB"),
    ],
)
def test_sizes_read_as_people_write_them(count: float, text: str) -> None:
    assert binary_size(count) == text
