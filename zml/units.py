"""Sizes as people read them."""


def binary_size(count: float) -> str:
    """12345678 -> '11.77MiB'."""
    if round(count) < 1024:
        return f"{count:.0f}B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if round(count, 2) < 1024 or unit == "GiB":
            break
    return f"{count:.2f}{unit}"
