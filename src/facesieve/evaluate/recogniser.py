"""The system under attack: aligned crops to a score for each of the known people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facesieve.attacks.objectives import Scores, similarities
from facesieve.errors import EmbedderError, SettingError
from facesieve.evaluate.experiment import RecogniserSettings
from facesieve.metrics.rates import correct_probability
from facesieve.recognition import Embedder
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.facenet import FaceNet

SHARPNESS = 32.0  # of a softmax over cosines, for a cross-entropy with useful gradients; ArcFace trains with 64
BATCH = 30


@dataclass(frozen=True, eq=False)
class Recogniser:
    """Scores of ``people``, the higher the more alike."""

    name: str
    people: tuple[str, ...]
    scores: Scores  # (B, 3, S, S) in [0, 1] -> (B, people): logits, or cosines with the mean templates
    closed_set: bool

    def logits(self, images: Tensor) -> Tensor:
        """Scores (B, people) that a softmax makes sense of; differentiable."""
        return self.scores(images) if self.closed_set else SHARPNESS * self.scores(images)

    @torch.inference_mode()
    def table(self, images: Tensor) -> np.ndarray:
        """Scores (N, people) in float64, without gradients."""
        return torch.cat([self.scores(part) for part in torch.split(images, BATCH)]).double().numpy()


@dataclass(frozen=True, eq=False)
class Trial:
    """What one image was taken for: numbers, one an image."""

    predicted: list[int]  # the best person's place in the list
    own: list[float]  # score of the right person
    other: list[float]  # best score of anybody else
    probability: list[float] | None  # softmax probability of the right person; of a closed set alone


def judge(recogniser: Recogniser, images: Tensor, labels: np.ndarray) -> Trial:
    """Score images (N, 3, S, S) of the people ``labels`` (N,)."""
    table = recogniser.table(images)
    rows = np.arange(len(table))
    rest = table.copy()
    rest[rows, labels] = -np.inf
    probability = correct_probability(table, labels).round(6).tolist() if recogniser.closed_set else None
    own, other = table[rows, labels].round(6).tolist(), rest.max(1).round(6).tolist()
    return Trial(table.argmax(1).tolist(), own, other, probability)


def load_recogniser(settings: RecogniserSettings, people: tuple[str, ...], gallery: Tensor, owners: np.ndarray) -> Recogniser:
    """The recogniser that the settings name.

    ``gallery`` (M, 3, S, S) are training crops and ``owners`` (M,) whose each is; mean templates are
    made from the first ``templates`` of each person. Raises ``EmbedderError`` for weights that do not
    fit, ``SettingError`` where there are too few training crops.
    """
    embedder = load_embedder(settings.embedder)
    if settings.scores == "closed-set":
        return _closed_set(embedder, people, settings.embedder)
    counts = np.bincount(owners, minlength=len(people))
    if counts.min() < settings.templates:
        raise SettingError(
            f"{people[int(counts.argmin())]} has {counts.min()} training images, recogniser.templates wants {settings.templates}"
        )
    first = np.concatenate([np.flatnonzero(owners == person)[: settings.templates] for person in range(len(people))])
    with torch.inference_mode():
        rows = torch.cat([embedder.embed(part) for part in torch.split(gallery[torch.from_numpy(first)], BATCH)])
    means = functional.normalize(rows.view(len(people), settings.templates, -1).mean(1)).clone()
    name = f"{embedder.name}, nearest of mean templates of {settings.templates}"
    return Recogniser(name, people, similarities(embedder, means), closed_set=False)


def _closed_set(embedder: Embedder, people: tuple[str, ...], spec: str) -> Recogniser:
    if not isinstance(embedder, FaceNet) or embedder.logits is None:
        raise EmbedderError(f"{spec} has no closed-set head; set recogniser.scores to templates, or train one")
    if embedder.people != people:
        known = len(set(embedder.people) & set(people))
        raise EmbedderError(
            f"{spec} was trained to tell {len(embedder.people)} people apart, of the data's {len(people)} it knows {known}; "
            "train it on this manifest with `facesieve train recogniser`"
        )
    return Recogniser(f"{embedder.name}, closed-set head", people, embedder.classify, closed_set=True)
