"""Whether a gallery should be purified too: the nearest of raw, purified, or both kinds of templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from facesieve.evaluate.defend import Defence, defend
from facesieve.evaluate.measures import MEASURES
from facesieve.images import to_floats
from facesieve.metrics.intervals import Estimate, Means
from facesieve.metrics.open_set import best_scores
from facesieve.recognition.embedders import load_embedder

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run


def templates(run: Run) -> dict[str, Estimate]:
    """The share of test images whose nearest template is their own person's, behind each defence, clean and attacked.

    Each of the first training images of a person is a template.
    """
    settings = run.experiment.recogniser
    embedder, gallery = load_embedder(settings.embedder), run.gallery.first(settings.templates)
    crops, owners = to_floats(gallery.images), [str(label) for label in gallery.labels]
    raw, found = embedder.rows(crops), {}
    for defence in run.defences:
        purified = embedder.rows(defend(defence, torch.from_numpy(crops), run.context).images.numpy())
        kinds = {"raw": (raw, owners), "purified": (purified, owners)}
        kinds["both"] = np.concatenate([raw, purified]), owners + owners
        for name, images in _probes(run, defence).items():
            rows = embedder.rows(defend(defence, images, run.context).images.numpy())
            labels = run.labels[: len(images)]
            means = Means(labels)
            for kind, (of, names) in kinds.items():
                genuine, impostor = best_scores(rows, [str(label) for label in labels], of, names)
                share = means.share(genuine > impostor)
                found[f"correct with {kind} templates, {defence.name}, {name}"] = share
    return found


def _probes(run: Run, defence: Defence) -> dict[str, Tensor]:
    """Clean images, and those of each attack, saved as 8 bit, that this defence was tried on."""
    found = {"clean": run.images}
    for attack in run.attacks:
        for faced_by, n in run.plan.faced_by(attack):
            if faced_by is defence:
                found[attack.name] = run.faced(attack, defence, n)
    return found


MEASURES.register("templates", templates)
