"""Gaussian noise seeded per image, so that a batch gives each image the result it gets alone."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Noise = Callable[[], "Tensor"]  # each call draws a fresh (B, C, H, W) of unit Gaussian noise


def seeded_noise(
    seeds: Sequence[int],
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Noise:
    """A source of unit Gaussian noise of ``(len(seeds), *shape)``; image ``i`` depends on ``seeds[i]`` alone.

    It is drawn on the CPU whatever the device, so that a seed means the same everywhere.
    """
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw() -> Tensor:
        return torch.stack([torch.randn(shape, generator=g, dtype=dtype) for g in generators]).to(device)

    return draw


def derive_seed(seed: int, *labels: object) -> int:
    """A seed in [0, 2**63) that depends on ``seed`` and every label, alike on every machine."""
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fresh_seeds(count: int) -> list[int]:
    """Unpredictable seeds from the operating system."""
    return [secrets.randbits(63) for _ in range(count)]
