"""What an attack raises: a loss for each image, differentiable.

The more an image is like a person, the higher the score: logits of a closed set, or similarities with
templates. An objective holds the labels or rows of the batch that is attacked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from facesieve.recognition import TorchEmbedder
from facesieve.registry import Registry

Objective = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [0, 1] -> (B,), which the attack raises
Scores = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [0, 1] -> (B, C)


def similarities(embedder: TorchEmbedder, templates: Tensor, owners: Tensor | None = None, *, scale: float = 1.0) -> Scores:
    """Scores ``scale`` times the cosine with each person's template; of several, the best.

    ``templates`` (T, D), unit rows; ``owners`` (T,) says whose each is, 0 ... C - 1, each person at least
    once; None where row ``c`` is person ``c``'s. A ``scale`` of about 30 makes a softmax of cosines as
    decisive as that of a classifier.
    """

    def cosines_of(images: Tensor) -> Tensor:
        rows = embedder.embed(images)
        with torch.autocast(images.device.type, enabled=False):  # bf16 would tie people whose cosines are close
            return scale * rows.to(templates.dtype) @ templates.T  # (B, T)

    if owners is None:
        return cosines_of
    people = int(owners.max()) + 1

    def scores(images: Tensor) -> Tensor:
        cosines = cosines_of(images)
        best = cosines.new_full((len(cosines), people), -torch.inf)
        return best.scatter_reduce(1, owners.expand_as(cosines), cosines, "amax")

    return scores


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """Away from the correct person: the cross-entropy of ``labels`` (B,)."""

    scores: Scores
    labels: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        return functional.cross_entropy(self.scores(images), self.labels, reduction="none")


@dataclass(frozen=True, eq=False)
class TargetedCrossEntropy:
    """Toward the people ``targets`` (B,): minus their cross-entropy."""

    scores: Scores
    targets: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        return -functional.cross_entropy(self.scores(images), self.targets, reduction="none")


@dataclass(frozen=True, eq=False)
class Margin:
    """Best wrong score minus the correct person's; above 0 the image is given a wrong name. Carlini and Wagner, 2017, f6."""

    scores: Scores
    labels: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        return -_lead(self.scores(images), self.labels)


@dataclass(frozen=True, eq=False)
class TargetedMargin:
    """The target's score minus the best other one; above 0 the image is named as the target."""

    scores: Scores
    targets: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        return _lead(self.scores(images), self.targets)


@dataclass(frozen=True, eq=False)
class Acceptance:
    """The targets' score, whatever the others': what a system compares with a threshold that is told whom to expect."""

    scores: Scores
    targets: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        scores: Tensor = self.scores(images).gather(1, self.targets[:, None])[:, 0]
        return scores


@dataclass(frozen=True, eq=False)
class PushAway:
    """Dodging: minus the cosine with the person's own template, ``own`` (B, D), unit rows."""

    embedder: TorchEmbedder
    own: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        return -(self.embedder.embed(images) * self.own).sum(1)


@dataclass(frozen=True, eq=False)
class PullToward:
    """Impersonation: the cosine with a victim's template, ``victim`` (B, D), unit rows."""

    embedder: TorchEmbedder
    victim: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        return (self.embedder.embed(images) * self.victim).sum(1)


@dataclass(frozen=True, eq=False)
class Together:
    """The sum of one objective over several recognisers, whose scores ``scores`` has side by side: (B, recognisers * people)."""

    objective: Callable[[Scores, Tensor], Objective]
    scores: Scores
    labels: Tensor  # (B,)
    people: int

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        parts = torch.split(self.scores(images), self.people, dim=1)
        return torch.stack([self.objective(lambda _, part=part: part, self.labels)(images) for part in parts]).sum(0)  # type: ignore[misc]


def _lead(scores: Tensor, labels: Tensor) -> Tensor:
    """The label's score minus the best other one: (B,)."""
    own = functional.one_hot(labels, scores.shape[1]).bool()
    return scores[own] - scores.masked_fill(own, -torch.inf).amax(1)


def target_of(labels: Tensor, people: int) -> Tensor:
    """Whom each person always impersonates: the one half of all ``people`` further, (B,)."""
    return (labels + people // 2) % people


@dataclass(frozen=True, eq=False)
class _Impersonation:
    """A targeted objective with everybody's fixed target."""

    kind: Callable[[Scores, Tensor], Objective]
    scores: Scores
    labels: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B,)."""
        scores = self.scores(images)
        return self.kind(lambda _: scores, target_of(self.labels, scores.shape[1]))(images)


# Of an attack, made with scores and labels: away from the correct person, or toward a fixed target of theirs.
OBJECTIVES: Registry[Callable[[Scores, Tensor], Objective]] = Registry("objective")
OBJECTIVES.register("cross-entropy", CrossEntropy)
OBJECTIVES.register("margin", Margin)
OBJECTIVES.register("impersonation", partial(_Impersonation, TargetedMargin))
OBJECTIVES.register("acceptance", partial(_Impersonation, Acceptance))
IMPERSONATING = ("impersonation", "acceptance")
