"""A known answer: what a graph makes of made-up crops, kept in its metadata, so that a runtime can check itself.

Accelerators and their drivers have been seen to give wrong results without an error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facesieve.faces import Crops
from facesieve.noise import seeded_draws

CROPS = 1
SEEDS = tuple(range(CROPS))
GRID = 8  # the answer is the mean of blocks, GRID to a side
TOLERANCE = 1 / 255


def smooth_crops(count: int, size: int) -> Crops:
    """Made-up images (count, 3, size, size) in [0, 1]: sums of a few waves, alike on every machine."""
    across, down = np.meshgrid(np.arange(size) / size, np.arange(size) / size)
    draws = np.random.RandomState(0).uniform(size=(count, 3, 6, 4))
    images = np.zeros((count, 3, size, size))
    for wave in range(draws.shape[2]):
        x, y, phase, height = (draws[:, :, wave, k, None, None] for k in range(4))
        images += height * np.sin(2 * np.pi * (4 * x * across + 4 * y * down + phase))
    return (0.5 + images / 6).clip(0, 1).astype(np.float32)


def question(size: int) -> tuple[Crops, Crops]:
    """The made-up crops that a graph is asked about, and the unit noise (CROPS, 3, size, size) that goes with them."""
    return smooth_crops(CROPS, size), seeded_draws(SEEDS, (3, size, size))().astype(np.float32)


def known_answer(purified: Crops) -> list[float]:
    """Block means of purified crops (CROPS, 3, S, S), rounded."""
    return [round(float(value), 5) for value in _means(purified).ravel()]


def is_known(purified: Crops, answer: list[float]) -> bool:
    """Whether they are the answer, within one level of 255."""
    means = _means(purified).ravel()
    return means.shape == (len(answer),) and bool(np.abs(means - np.asarray(answer)).max() <= TOLERANCE)


def _means(images: Crops) -> NDArray[np.float64]:
    count, channels, size, _ = images.shape
    block = size // GRID
    means: NDArray[np.float64] = images.astype(np.float64).reshape(count, channels, GRID, block, GRID, block).mean((3, 5))
    return means
