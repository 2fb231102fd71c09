"""Randomised smoothing with the prior as the denoiser: people's votes under noise.

Carlini et al., "(Certified!!) Adversarial Robustness for Free!" (ICLR 2023): noise, one step of a diffusion denoiser, then any
recogniser, is a base classifier for Cohen's smoothing. The noise is added to the crop, so what is certified is a change of the
aligned crop; that the detector finds the same landmarks is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.priors import Prior

Namer = Callable[[Tensor], NDArray[np.int64]]  # crops (B, 3, S, S) in [0, 1] to the people's numbers (B,)
BATCH = 30


def noised_and_denoised(prior: Prior, crop: Tensor, sigma: float, draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    """``draws`` times a crop (3, S, S) in [0, 1] with noise of ``sigma``, denoised in one step, in batches (B, 3, S, S)."""
    for start in range(0, draws, BATCH):
        count = min(BATCH, draws - start)
        noisy = crop + sigma * torch.randn((count, *crop.shape), generator=generator)
        with torch.inference_mode():
            clean = prior(2 * noisy - 1, 2 * sigma)  # in [-1, 1] the same noise is twice as strong
        yield (clean.float() / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Votes:
    """Of one image and one recogniser: whom the first draws took it for most often, and how many of the others agreed."""

    top: int
    count: int
    draws: int


def votes(prior: Prior, namers: Sequence[Namer], crop: Tensor, sigma: float, *, first: int, draws: int, seed: int) -> list[Votes]:
    """Cohen's CERTIFY up to its bound, for each of several recognisers on the same draws: ``first`` choose the person."""
    generator = torch.Generator().manual_seed(seed)
    named = [[] for _ in namers]  # type: list[list[NDArray[np.int64]]]
    for clean in noised_and_denoised(prior, crop, sigma, first + draws, generator):
        for namer, found in zip(namers, named, strict=True):
            found.append(namer(clean))
    made = []
    for found in named:
        everybody = np.concatenate(found)
        top = int(np.bincount(everybody[:first]).argmax())
        made.append(Votes(top, int((everybody[first:] == top).sum()), draws))
    return made
