"""Gaussian noise seeded per image, so that a batch gives each image the result it gets alone."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facesieve.limits import whole_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Noise = Callable[[], "Tensor"]  # each call draws a fresh (B, C, H, W) of unit Gaussian noise


def seeded_draws(seeds: Sequence[int], shape: tuple[int, ...]) -> Callable[[], NDArray[np.float64]]:
    """A source of unit Gaussian noise (len(seeds), *shape); array ``i`` of a draw depends on ``seeds[i]`` alone.

    Every runtime draws from it, so that a seed means the same in each. ``RandomState``, unlike NumPy's newer
    generators, promises the same numbers in every version.
    """
    states = [np.random.RandomState(np.random.MT19937(whole_number(seed, "seed", 0))) for seed in seeds]

    def draw() -> NDArray[np.float64]:
        return np.stack([state.standard_normal(shape) for state in states]) if states else np.empty((0, *shape))

    return draw


def seeded_noise(
    seeds: Sequence[int],
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Noise:
    """``seeded_draws`` as tensors, of PyTorch's default type if ``dtype`` is None."""
    import torch

    draws = seeded_draws(seeds, shape)

    def draw() -> Tensor:
        return torch.from_numpy(draws()).to(device, dtype or torch.get_default_dtype())

    return draw


def derive_seed(seed: int, *labels: object) -> int:
    """A seed in [0, 2**63) that depends on ``seed`` and every label, alike on every machine.

    A seed or label of NumPy or PyTorch counts as the plain number that it holds. Raises ``SettingError`` for a seed that is no
    whole number.
    """
    plain = (label.item() if hasattr(label, "item") else label for label in labels)
    digest = hashlib.sha256(repr((whole_number(seed, "seed"), *plain)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fresh_seeds(count: int) -> list[int]:
    """Unpredictable seeds from the operating system."""
    return [secrets.randbits(63) for _ in range(count)]
