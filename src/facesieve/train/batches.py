"""Settings and batches of the recogniser's two trainings: distilling and classifying.

The batch of step ``n`` depends on the seed and ``n`` alone, so a run that was stopped goes on as
if it had not been.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from facesieve.data.crops import Crops, LabelledCrops
from facesieve.errors import InputError, SettingError
from facesieve.recognition.facenet import SIDE
from facesieve.train.views import to_batch, vary

Indices = NDArray[np.int64]


class Optimising(BaseModel):
    """What both trainings share; written beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(64, gt=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    dropout: float = Field(0.4, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    teacher_weight: float = Field(4.0, ge=0)  # of 1 - cosine with the teacher, beside the cross-entropy
    warmup_steps: int = Field(200, ge=0)
    seed: int = 0


class Distilling(Optimising):
    """Pointing where a teacher's embedding points, over faces of nobody in particular."""

    epochs: int = Field(4, gt=0)
    size: int = Field(96, ge=75)  # pixels; small images cost less and teach most of what there is to learn
    dropout: float = Field(0.0, ge=0, lt=1)


class Classifying(Optimising):
    """Telling the people of a data set apart; batch and epochs are the published ones."""

    epochs: int = Field(30, gt=0)
    sizes: tuple[int, ...] = (96, 128, SIDE)  # pixels, one after the other
    size_shares: tuple[float, ...] = (0.6, 0.2, 0.2)  # of the steps
    validation: int = Field(2, ge=1)  # training images of each person held out, to keep the best weights by

    def model_post_init(self, _: object) -> None:
        """Settings that contradict each other."""
        if len(self.sizes) != len(self.size_shares) or min(self.sizes) < 75 or self.sizes[-1] != SIDE:
            raise SettingError(f"sizes {self.sizes}: one share each, at least 75 pixels, the last {SIDE}")


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from."""

    images: Tensor  # (B, 3, S, S) in [0, 1]
    labels: Tensor | None  # (B,)
    rows: Tensor | None  # (B, D), the teacher's


class Batches(Protocol):
    """The batch of each step."""

    @property
    def total(self) -> int:
        """Steps in all."""

    @property
    def per_epoch(self) -> int:
        """Steps of one pass."""

    def size(self, step: int) -> int:
        """Side of the images, pixels."""

    def rate(self, step: int) -> float:
        """Factor of the learning rate after the warm-up."""

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""


class DistillingBatches:
    """Crops in random order, each once an epoch, with the teacher's rows (N, D)."""

    def __init__(self, crops: Crops, rows: Tensor, settings: Distilling) -> None:
        if len(crops) < settings.batch:
            raise InputError(f"{len(crops)} faces are too few for batches of {settings.batch}; use more, or --set batch=2")
        self.crops, self.rows, self.settings = crops, rows, settings
        self.per_epoch = len(crops) // settings.batch
        self.total = settings.epochs * self.per_epoch

    def size(self, step: int) -> int:
        """One size for all steps."""
        return self.settings.size

    def rate(self, step: int) -> float:
        """Constant, falling to a tenth over the last third."""
        return min(1.0, 0.1 + 2.7 * (self.total - step) / self.total)

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        rng = np.random.default_rng((self.settings.seed, step))
        shuffled = np.random.default_rng((self.settings.seed, 1, step // self.per_epoch)).permutation(len(self.crops))
        start = step % self.per_epoch * self.settings.batch
        chosen = shuffled[start : start + self.settings.batch]
        images = to_batch([vary(self.crops[index], self.settings.size, rng) for index in chosen])
        return Batch(images, None, self.rows[torch.from_numpy(chosen)])


class ClassifyingBatches:
    """Every person equally often, whatever the number of their images; with a teacher's rows (N, D) if given."""

    def __init__(self, crops: LabelledCrops, rows: Tensor | None, settings: Classifying) -> None:
        self.crops, self.rows, self.settings = crops, rows, settings
        self.train, self.validation = split(crops.labels, settings.validation, settings.seed)
        self.own = [self.train[crops.labels[self.train] == person] for person in range(len(crops.people))]
        self.per_epoch = max(len(self.train) // settings.batch, 1)
        self.total = settings.epochs * self.per_epoch
        shares = np.cumsum([0.0, *settings.size_shares]) / sum(settings.size_shares)
        self.begins = [round(self.total * share) for share in shares]  # step at which each size begins; the last is the end

    def size(self, step: int) -> int:
        """Grows with the steps."""
        return self.settings.sizes[self._phase(step)]

    def rate(self, step: int) -> float:
        """A half cosine to zero over each size: a network that meets larger images has to be able to change.

        Warm restarts as of Loshchilov and Hutter, "SGDR", ICLR 2017.
        """
        phase = self._phase(step)
        begun, ended = self.begins[phase], self.begins[phase + 1]
        return 0.5 * (1 + math.cos(math.pi * (step - begun) / max(ended - begun, 1)))

    def _phase(self, step: int) -> int:
        return min(int(np.searchsorted(self.begins, step, side="right")) - 1, len(self.settings.sizes) - 1)

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        rng = np.random.default_rng((self.settings.seed, step))
        rounds = -(-self.settings.batch // len(self.own))
        people = np.concatenate([rng.permutation(len(self.own)) for _ in range(rounds)])[: self.settings.batch]
        chosen = np.array([rng.choice(self.own[person]) for person in people], dtype=np.int64)
        images = to_batch([vary(self.crops.images[index], self.size(step), rng) for index in chosen])
        rows = None if self.rows is None else self.rows[torch.from_numpy(chosen)]
        return Batch(images, torch.from_numpy(people.astype(np.int64)), rows)


def split(labels: Indices, held_out: int, seed: int) -> tuple[Indices, Indices]:
    """Indices to train on, and of ``held_out`` images a person to choose the best weights by."""
    train, validation = [], []
    for person in range(int(labels.max()) + 1):
        own = np.random.default_rng((seed, 2, person)).permutation(np.flatnonzero(labels == person))
        if len(own) <= held_out:
            raise InputError(f"person {person} has {len(own)} training images; more than validation={held_out} are needed")
        validation.append(own[:held_out])
        train.append(own[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))
