"""The system under attack: aligned crops to a score for each of the known people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.attacks.objectives import Scores, similarities
from facesieve.data.crops import LabelledCrops
from facesieve.errors import EmbedderError, OtherPeopleError, SettingError, many
from facesieve.evaluate.cache import BatchCache
from facesieve.evaluate.defend import Defence, RunContext, defend
from facesieve.evaluate.experiment import RecogniserSettings
from facesieve.files import sha256_of_json, sha256_of_pixels
from facesieve.images import to_floats
from facesieve.metrics.rates import correct_probability
from facesieve.recognition import Embedder
from facesieve.recognition.embedder import differentiable, in_parts
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.templates import mean_templates

SHARPNESS = 32.0  # of a softmax over cosines, for a cross-entropy with useful gradients; ArcFace trains with 64
BATCH = 30


@dataclass(frozen=True, eq=False)
class Recogniser:
    """Scores of ``people``; the more alike, the higher."""

    name: str
    people: tuple[str, ...]
    scores: Scores  # (B, 3, S, S) in [0, 1] -> (B, people): logits, or cosines with the mean templates
    closed_set: bool
    parts: int = 1  # recognisers of which this is made: their scores lie side by side
    embedder: Embedder | None = None  # of one with templates
    templates: Tensor | None = None  # (people, D), whose cosines are the scores

    def logits(self, images: Tensor) -> Tensor:
        """Scores (B, people) that suit a softmax; differentiable."""
        return self.scores(images) if self.closed_set else SHARPNESS * self.scores(images)

    @torch.inference_mode()
    def table(self, images: Tensor) -> NDArray[np.float64]:
        """Scores (N, people) in float64, without gradients; of several recognisers side by side."""
        columns = self.parts * len(self.people)
        scores = in_parts(lambda part: self.scores(torch.from_numpy(part)).numpy(), images.numpy(), columns, BATCH)
        return scores.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Trial:
    """What every image was taken for: numbers, one per image."""

    predicted: list[int]  # the best person's place in the list
    genuine: list[float]  # score of the person it shows
    impostor: list[float]  # best score of anybody else
    probability: list[float] | None  # softmax probability of the person it shows; of a closed set alone


@dataclass(frozen=True, eq=False)
class Enrolment:
    """A defence that enrolled images go through; ``name`` tells it from every other."""

    name: str
    through: Callable[[Tensor], Tensor]  # images (N, 3, S, S) to the same


def side_by_side(recognisers: Sequence[Recogniser]) -> Recogniser:
    """Several as one, to be attacked together: its scores are the logits of each, (B, recognisers * people)."""
    if len(recognisers) == 1:
        return recognisers[0]

    def scores(images: Tensor) -> Tensor:
        return torch.cat([recogniser.logits(images) for recogniser in recognisers], 1)

    name = " and ".join(recogniser.name for recogniser in recognisers)
    return Recogniser(name, recognisers[0].people, scores, closed_set=True, parts=len(recognisers))


def judge(recogniser: Recogniser, images: Tensor, labels: NDArray[np.int64]) -> Trial:
    """Score images (N, 3, S, S) of the people ``labels`` (N,)."""
    table = recogniser.table(images)
    rows = np.arange(len(table))
    rest = table.copy()
    rest[rows, labels] = -np.inf
    probability = correct_probability(table, labels).round(6).tolist() if recogniser.closed_set else None
    genuine, impostor = table[rows, labels].round(6).tolist(), rest.max(1).round(6).tolist()
    return Trial(table.argmax(1).tolist(), genuine, impostor, probability)


def load_recogniser(
    settings: RecogniserSettings, gallery: LabelledCrops, cache: BatchCache, enrolment: Enrolment | None = None
) -> Recogniser:
    """The recogniser that the settings name, of the people in ``gallery``, the training crops.

    Mean templates are made from the first ``templates`` crops of each person, as they are or through the ``enrolment``'s defence;
    the ``cache`` has them where they were made before.
    Raises ``EmbedderError`` for weights that do not fit, ``SettingError`` where there are too few training crops.
    """
    embedder = load_embedder(settings.embedder)
    if settings.scores == "closed-set":
        return _closed_set(embedder, gallery.people, settings.embedder)
    wanted, people = settings.templates, gallery.people
    first = enrolled(gallery, wanted, "recogniser.templates")
    crops, name = to_floats(first.images), f"{embedder.name}, nearest of mean templates of {wanted}"
    if enrolment is not None:
        crops, name = enrolment.through(torch.from_numpy(crops)).numpy(), f"{name} behind {enrolment.name}"
    quick = load_embedder(settings.embedder, gradients=False)  # the same rows, several times as fast where it is a graph
    made_from = {"mean templates": embedder.name, "crops": sha256_of_pixels(crops), "labels": first.labels.tolist()}
    means = cache.batch(made_from, lambda: torch.from_numpy(mean_templates(quick.rows(crops), first.labels))).images
    return Recogniser(name, people, _cosines(embedder, quick, means), closed_set=False, embedder=embedder, templates=means)


def enrolled(gallery: LabelledCrops, wanted: int, setting: str) -> LabelledCrops:
    """The first crops of each person, as many as the ``setting`` wants. Raises ``SettingError`` where somebody has fewer."""
    counts = np.bincount(gallery.labels, minlength=len(gallery.people))
    if counts.min() < wanted:
        few = gallery.people[int(counts.argmin())]
        raise SettingError(f"has {many(int(counts.min()), 'training image')}, {setting} wants {wanted}", few)
    return gallery.first(wanted)


@dataclass(frozen=True, eq=False)
class Recognisers:
    """Those of a run, of the people in ``gallery``; each is loaded once."""

    gallery: LabelledCrops
    context: RunContext
    _loaded: dict[tuple[RecogniserSettings, str], Recogniser] = field(default_factory=dict)

    def named(self, settings: RecogniserSettings, defence: Defence | None) -> Recogniser:
        """Who names what comes from behind a defence: of people enrolled as they are or, if so set, behind that defence."""
        enrolment = None
        behind = "raw" if defence is None else defence.settings.enrolled or settings.enrolled
        if defence is not None and behind == "purified" and settings.scores == "templates":
            made_from = sha256_of_json({"stages": defence.purifier.identity()})[:8]
            name = f"{defence.name} {made_from}"
            enrolment = Enrolment(name, lambda images: defend(defence, images, self.context).images)
        key = settings, "" if enrolment is None else enrolment.name
        if key not in self._loaded:
            self._loaded[key] = load_recogniser(settings, self.gallery, self.context.cache, enrolment)
        return self._loaded[key]


def _cosines(embedder: Embedder, quick: Embedder, means: Tensor) -> Scores:
    """Cosines with the templates ``means`` (people, D); only an image with a gradient needs the differentiable embedder."""

    def scores(images: Tensor) -> Tensor:
        if images.requires_grad:
            return similarities(differentiable(embedder), means)(images)
        return torch.from_numpy(quick.rows(images.numpy())) @ means.T

    return scores


def _closed_set(embedder: Embedder, people: tuple[str, ...], spec: str) -> Recogniser:
    if not embedder.people:
        raise EmbedderError("has no closed-set head", spec, "set recogniser.scores to templates, or train one")
    if embedder.people != people:
        known = len(set(embedder.people) & set(people))
        raise OtherPeopleError(
            f"was trained to tell {len(embedder.people)} people apart, of the data's {len(people)} it knows {known}", spec
        )
    return Recogniser(f"{embedder.name}, closed-set head", people, differentiable(embedder).classify, closed_set=True)
