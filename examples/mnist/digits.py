"""Digits drawn by this program: strokes, bent at random, under random affine maps, with a random pen and noise."""

import math
from collections.abc import Callable

import numpy as np

SIDE = 28
"""Pixels along an edge of an image, as in MNIST."""
type Points = list[tuple[float, float]]


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    """Points of an ellipse around (x, y); angles in turns, from the right, towards the bottom."""
    count = max(4, round(abs(stop - start) * 14) + 1)
    angles = np.linspace(start, stop, count) * 2 * math.pi
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


# The strokes of each digit: lines through points, x to the right and y down, both from -1 to 1.
_GLYPHS: list[list[Points]] = [
    [_arc(0, 0, 0.55, 0.9, 0, 1)],
    [[(-0.35, -0.6), (0.05, -0.9), (0.05, 0.9)]],
    [[*_arc(0, -0.4, 0.5, 0.5, -0.5, 0.1), (-0.5, 0.9), (0.55, 0.9)]],
    [[*_arc(-0.05, -0.45, 0.5, 0.45, -0.45, 0.25), *_arc(-0.05, 0.45, 0.55, 0.45, -0.25, 0.45)]],
    [[(0.25, -0.9), (-0.55, 0.25), (0.6, 0.25)], [(0.3, -0.2), (0.3, 0.9)]],
    [[(0.5, -0.9), (-0.4, -0.9), (-0.45, -0.1), *_arc(-0.05, 0.35, 0.55, 0.55, -0.3, 0.42)]],
    [[(0.3, -0.9), (-0.2, -0.45), *_arc(0, 0.4, 0.5, 0.5, 0.5, 1.5)]],
    [[(-0.55, -0.9), (0.55, -0.9), (-0.1, 0.9)]],
    [_arc(0, -0.45, 0.42, 0.42, 0.25, 1.25), _arc(0, 0.45, 0.52, 0.45, -0.25, 0.75)],
    [[*_arc(0, -0.4, 0.48, 0.48, 0, 1), (0.4, 0.9)]],
]


def render(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` images [count, 28, 28] (u8: 0 paper, 255 ink) and their labels [count] (i32). Same seed, same images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.int32)
    images = np.empty((count, SIDE, SIDE), np.uint8)
    for digit in range(10):
        mine = np.flatnonzero(labels == digit)
        for part in np.array_split(mine, max(1, len(mine) // 128)):
            images[part] = _draw(digit, len(part), rng)
    return images, labels


def _draw(digit: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` images of one digit."""
    starts, ends = [], []
    for stroke in _GLYPHS[digit]:
        # Every corner moves a little: no two digits have quite the same form.
        points = np.array(stroke) + rng.normal(0, 0.05, (count, len(stroke), 2))
        starts.append(points[:, :-1])
        ends.append(points[:, 1:])
    place = _affine(count, rng)
    start, end = (place(np.concatenate(some, 1)) for some in (starts, ends))
    distance = _distance(start, end)
    pen = rng.uniform(0.8, 1.9, (count, 1))
    ink = np.clip(pen - distance + 0.5, 0, 1) * rng.uniform(0.6, 1, (count, 1))
    noisy = ink + rng.normal(0, 0.08, ink.shape)
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8).reshape(count, SIDE, SIDE)


def _affine(count: int, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A random turn (up to 17 degrees), slant, size and place for each image: from glyph space to pixels."""
    turn, slant = rng.uniform(-0.3, 0.3, (2, count))
    width, height = rng.uniform(7, 11.5, (2, count))
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array(
        [[cos * width, (slant * cos - sin) * height], [sin * width, (slant * sin + cos) * height]]
    )
    middle = (SIDE - 1) / 2 + rng.uniform(-2.5, 2.5, (count, 1, 2))

    def place(points: np.ndarray) -> np.ndarray:
        placed: np.ndarray = np.einsum("ijn,npj->npi", matrix, points) + middle
        return placed

    return place


def _distance(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """From each pixel to the nearest of the segments [images, segments, 2]: [images, pixels]."""
    y, x = np.divmod(np.arange(SIDE * SIDE, dtype=np.float32), SIDE)
    best = np.full((len(start), SIDE * SIDE), np.inf, np.float32)
    for a, b in zip(start.swapaxes(0, 1), end.swapaxes(0, 1), strict=True):
        (ax, ay), (dx, dy) = (
            a.T[..., None].astype(np.float32),
            (b - a).T[..., None].astype(np.float32),
        )
        px, py = x - ax, y - ay
        share = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, 1e-6), 0, 1)
        np.minimum(best, (px - share * dx) ** 2 + (py - share * dy) ** 2, out=best)
    return np.sqrt(best)


def ascii_art(image: np.ndarray) -> list[str]:
    """An image as text, two rows of pixels a line."""
    shades = " .:-=+*#%@"
    pairs = image.reshape(SIDE // 2, 2, SIDE).mean(1)
    return ["".join(shades[int(v) * len(shades) // 256] for v in row) for row in pairs]
