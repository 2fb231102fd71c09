"""How the experiment's embedder identifies clean test images, where a person may be unknown, and compares them in pairs.

Each of the first training images of a person is a template; a person's score is their best template's. An unknown probe is one
whose own person is left out of the gallery. Nothing is purified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from facesieve.evaluate.measures import MEASURES
from facesieve.images import to_floats
from facesieve.metrics.intervals import Estimate, bootstrap
from facesieve.metrics.open_set import calibrate_threshold
from facesieve.metrics.rates import eer, mean, ranks, tar_at_far
from facesieve.recognition.embedders import load_embedder

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

FAR_PAIRS = 0.001
DRAWS = 300  # of statistics that sort all pairs


def open_set(run: Run) -> dict[str, Estimate]:
    """Top-1, top-5, DIR and FRR at the experiment's ``run.far``; of pairs TAR at FAR 0.1 % and EER."""
    embedder, far = load_embedder(run.experiment.recogniser.embedder), run.settings.far
    gallery, each = run.gallery, run.experiment.recogniser.templates
    first = np.concatenate([np.flatnonzero(gallery.labels == person)[:each] for person in range(len(gallery.people))])
    rows, probes = embedder.rows(to_floats(gallery.images[first])), embedder.rows(run.images.numpy())
    # (N, people): the best of each person's templates
    scores = (probes @ rows.T).reshape(len(probes), len(gallery.people), -1).max(2)
    places = ranks(scores, run.labels)
    names = [[gallery.people[label] for label in labels] for labels in (run.labels, gallery.labels[first])]
    found = calibrate_threshold(probes, names[0], rows, names[1], far)
    rates = {f"DIR at FAR {far:.0%}": found.dir, f"FRR at FAR {far:.0%}": found.frr}
    return {
        "top-1": bootstrap(lambda w: mean(places <= 1, w), run.labels),
        "top-5": bootstrap(lambda w: mean(places <= 5, w), run.labels),
        **{name: estimate for name, estimate in rates.items() if estimate is not None},
        **_pairs(scores, run.labels),
    }


def _pairs(scores: np.ndarray, labels: np.ndarray) -> dict[str, Estimate]:
    """Every probe with every person: 1:1."""
    owners = np.stack([np.repeat(labels, scores.shape[1]), np.tile(np.arange(scores.shape[1]), len(labels))], 1)
    order = np.argsort(-scores.ravel())  # in order each draw is quicker
    pairs, owners = scores.ravel()[order], owners[order]
    genuine = owners[:, 0] == owners[:, 1]
    return {
        f"1:1, TAR at FAR {FAR_PAIRS:.1%}": bootstrap(lambda w: tar_at_far(pairs, genuine, FAR_PAIRS, w), owners, draws=DRAWS),
        "1:1, EER": bootstrap(lambda w: eer(pairs, genuine, w), owners, draws=DRAWS),
    }


MEASURES.register("open_set", open_set)
