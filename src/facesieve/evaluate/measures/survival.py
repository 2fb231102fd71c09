"""What survives of a perturbation behind each defence, in bands of spatial frequency, for luminance and chroma.

For every image, with the same noise, the difference between the purified adversarial and the purified clean image is what is
left of the perturbation. Above 1 a defence adds what was not there: detail that it invents differently for the two images.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.evaluate.defend import defend
from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate, Means

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

EDGES = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 0.75)  # cycles a pixel; a 2 x 2 block mean passes up to 1/4


def survival(run: Run) -> dict[str, Estimate]:
    """The energy left over that of the perturbation, saved as 8 bit, after each scored step of a defence."""
    found: dict[str, Estimate] = {}
    for attack in run.attacks:
        for defence, n in run.plan.faced_by(attack):
            attacked = run.faced(attack, defence, n)
            before = energy(attacked - run.images[:n])
            means = Means(run.labels[:n])
            pair = [defend(defence, images[:n], run.context).points for images in (run.images, attacked)]
            for (point, clean), (_, adversarial) in zip(*pair, strict=True):
                left = energy(adversarial - clean)
                where = f"{defence.name}, after {point}" if point else defence.name
                for name in left:
                    ratio = means.of(left[name]) / means.of(before[name])
                    found[f"{name}, {where}, {attack.name}"] = means.estimate(ratio)
    return found


def energy(change: Tensor) -> dict[str, NDArray[np.float64]]:
    """Squared amplitude (N,) of each of the images (N, 3, S, S), by kind of channel and band."""
    luminance = change.mean(1, keepdim=True).expand_as(change)
    grid = torch.fft.fftfreq(change.shape[-1])
    radius = (grid[:, None] ** 2 + grid[None] ** 2).sqrt()
    found = {}
    for kind, part in (("luminance", luminance), ("chroma", change - luminance)):
        power = torch.fft.fft2(part, norm="ortho").abs().square().mean(1)
        for low, high in pairwise(EDGES):
            band = (radius >= low) & (radius < high)
            found[f"{kind}, {low:.3g} to {high:.3g} cycles a pixel"] = power[:, band].sum(1).double().numpy()
    return found


MEASURES.register("survival", survival)
