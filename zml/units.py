"""Sizes as people read them."""


def binary_size(count: float) -> str:
    """12345678 -> '11.77MiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f}B" if unit == "B" else f"{count:.2f}{unit}"
