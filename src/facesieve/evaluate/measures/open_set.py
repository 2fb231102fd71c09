"""How the experiment's embedder identifies clean test images, where a person may be unknown, and compares them in pairs.

Each of the first training images of a person is a template; a person's score is their best template's. An unknown probe is one
whose own person is left out of the gallery. Nothing is purified.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import InputError
from facesieve.evaluate.measures import MEASURES
from facesieve.images import to_floats
from facesieve.metrics.intervals import Estimate, bootstrap, of_share
from facesieve.metrics.open_set import calibrate_threshold
from facesieve.metrics.rates import eer, mean, ranks, tar_at_far
from facesieve.recognition.embedders import load_embedder

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

FAR_PAIRS = 0.001
DRAWS = 300  # of statistics that sort all pairs


def open_set(run: Run) -> dict[str, Estimate]:
    """Top-1, top-5, DIR and FRR at the experiment's ``run.far``; of pairs TAR at FAR 0.1 % and EER.

    A rate at a FAR that so few images cannot resolve is left out.
    """
    embedder, far = load_embedder(run.experiment.recogniser.embedder), run.settings.far
    gallery = run.gallery.first(run.experiment.recogniser.templates)
    rows, probes = embedder.rows(to_floats(gallery.images)), embedder.rows(run.images.numpy())
    # (N, people): the best of each person's templates
    scores = (probes @ rows.T).reshape(len(probes), len(gallery.people), -1).max(2)
    places = ranks(scores, run.labels)
    names = [[gallery.people[label] for label in labels] for labels in (run.labels, gallery.labels)]
    pairs, genuine, owners = _pairs(scores, run.labels)
    found = {
        "top-1": of_share(bootstrap(lambda w: mean(places <= 1, w), run.labels)),
        "top-5": of_share(bootstrap(lambda w: mean(places <= 5, w), run.labels)),
        "1:1, EER": of_share(bootstrap(lambda w: eer(pairs, genuine, w), owners, draws=DRAWS)),
    }
    with suppress(InputError):
        rate = bootstrap(lambda w: tar_at_far(pairs, genuine, FAR_PAIRS, w), owners, draws=DRAWS)
        found[f"1:1, TAR at FAR {FAR_PAIRS:.1%}"] = of_share(rate)
    with suppress(InputError):
        chosen = calibrate_threshold(probes, names[0], rows, names[1], far)
        rates = {f"DIR at FAR {far:.0%}": chosen.dir, f"FRR at FAR {far:.0%}": chosen.frr}
        found |= {name: estimate for name, estimate in rates.items() if estimate is not None}
    return found


def _pairs(scores: Floats, labels: Labels) -> tuple[Floats, NDArray[np.bool_], Labels]:
    """Every probe with every person, in order of the score, in which each draw is quicker; whether they are one; who they are."""
    owners = np.stack([np.repeat(labels, scores.shape[1]), np.tile(np.arange(scores.shape[1]), len(labels))], 1)
    order = np.argsort(-scores.ravel())
    return scores.ravel()[order], (owners[:, 0] == owners[:, 1])[order], owners[order]


MEASURES.register("open_set", open_set)
