"""What the tamper score tells apart: images as they are from attacked ones, behind each defence.

The score is the product's, ``identification.tamper_scores``: the raw crop has 160 pixels, the purified one has the size of the
experiment. A perturbation, made on the small crop, is enlarged onto the large one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from facesieve.evaluate.defend import Defence, defend
from facesieve.evaluate.measures import MEASURES
from facesieve.identification import CROP, tamper_scores
from facesieve.metrics.intervals import Estimate, bootstrap, of_share
from facesieve.recognition import Embedder
from facesieve.recognition.embedders import load_embedder

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

Floats = NDArray[np.float64]
FALSE_ALARMS = 0.05


def tamper(run: Run) -> dict[str, Estimate]:
    """For each defence and attack: medians, the area under the ROC curve, and what a threshold for 5 % false alarms finds.

    Attacked images are those saved as 8 bit. Scores are of the recogniser's embedder.
    """
    embedder, found = load_embedder(run.experiment.recogniser.embedder), {}
    large = torch.from_numpy(run.test_crops(CROP))
    for attack in run.attacks:
        for defence, n in run.faced_by(attack):
            attacked = run.faced(attack, defence, n)
            change = functional.interpolate(attacked - run.images[:n], size=CROP, mode="bicubic", align_corners=False)
            clean = _scores(run, embedder, defence, large[:n], run.images[:n])
            tampered = _scores(run, embedder, defence, (large[:n] + change).clamp(0, 1), attacked)
            for what, estimate in _told_apart(clean, tampered, run.labels[:n]).items():
                found[f"{what}, {defence.name}, {attack.name}"] = estimate
    return found


def _scores(run: Run, embedder: Embedder, defence: Defence, raw: Tensor, images: Tensor) -> Floats:
    """Of images (N, 3, S, S) and their larger raw crops: (N,)."""
    purified = defend(defence, images, run.context).images
    return np.array(tamper_scores(embedder.rows(raw.numpy()), embedder.rows(purified.numpy())))


def _told_apart(clean: Floats, tampered: Floats, people: NDArray[np.int64]) -> dict[str, Estimate]:
    above = tampered[None] > clean[:, None]  # (clean, tampered)

    def detected(weights: Floats) -> float:
        return float(weights @ (tampered > _quantile(clean, weights, 1 - FALSE_ALARMS)) / weights.sum())

    alarms = f"{100 * FALSE_ALARMS:g} % false alarms"
    return {
        "median tamper score of clean images": bootstrap(lambda w: _quantile(clean, w, 0.5), people),
        "median tamper score of attacked images": bootstrap(lambda w: _quantile(tampered, w, 0.5), people),
        "area under the ROC curve": of_share(bootstrap(lambda w: float(w @ above @ w / w.sum() ** 2), people)),
        f"threshold for {alarms}": bootstrap(lambda w: _quantile(clean, w, 1 - FALSE_ALARMS), people),
        f"attacked images found at {alarms}": of_share(bootstrap(detected, people)),
    }


def _quantile(values: Floats, weights: Floats, share: float) -> float:
    """The smallest of the values at or under which this share of the weights lies."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, share * below[-1] - 1e-9)])


MEASURES.register("tamper", tamper)
