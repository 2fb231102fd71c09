"""The batch of each step of each training, made only from the seed and the number of the step."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.data.crops import Crops, FaceFolder, LabelledCrops
from facesieve.errors import InputError, many
from facesieve.images import Photo, to_floats
from facesieve.priors.schedule import Schedule
from facesieve.train.loop import half_cosine
from facesieve.train.settings import Classifying, Distilling, PriorTraining, PurifierTraining, ViewTraining
from facesieve.train.views import by_camera, sharpened, to_batch, varied, vary, wide_view

Indices = NDArray[np.int64]
T = TypeVar("T")


def hold_out(count: int, wanted: int, batch: int, seed: int) -> tuple[Indices, Indices]:
    """Of ``count`` faces, those to train on and those never trained on: at most ``wanted``, and at most a quarter.

    Raises ``InputError`` where there are too few for one batch.
    """
    order = np.random.default_rng(seed).permutation(count)
    held_out = min(wanted, count // 4)
    if count - held_out < batch or held_out < 1:
        raise _too_few(count, batch)
    return order[held_out:], order[:held_out]


def _too_few(count: int, batch: int) -> InputError:
    faces = many(count, "face is", "faces are")
    return InputError(f"{faces} too few for batches of {batch}", advice="use more, or a smaller batch")


def split_in_words(train: Indices, held_out: Indices) -> str:
    """``5 faces to train on, 1 held out``."""
    return f"{many(len(train), 'face')} to train on, {len(held_out)} held out"


def of_epoch(indices: Indices, batch: int, seed: int, step: int) -> Indices:
    """The ``indices`` in the batch of a step: each at most once per epoch, in random order."""
    per_epoch = len(indices) // batch
    shuffled = np.random.default_rng((seed, 1, step // per_epoch)).permutation(indices)
    start = step % per_epoch * batch
    return shuffled[start : start + batch]


# --- unlabelled faces --------------------------------------------------------------------------------


class NoisedBatches:
    """Faces in random order, with noise and its levels, for a prior to learn from: views of wide crops, or a folder's faces."""

    def __init__(self, faces: Crops | FaceFolder, settings: PriorTraining, schedule: Schedule) -> None:
        self.train, self.held_out = hold_out(len(faces), settings.held_out, settings.batch, settings.seed)
        self.faces, self.settings, self.schedule = faces, settings, schedule

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images in [-1, 1], noise and noise levels: (B, 3, H, W), (B, 3, H, W), (B,)."""
        rng = np.random.default_rng((self.settings.seed, step))
        chosen = of_epoch(self.train, self.settings.batch, self.settings.seed, step)
        images = _symmetric([self._view(int(index), rng) for index in chosen])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(images.shape, generator=generator)
        return images, noise, self._noise_levels(generator)

    def _view(self, index: int, rng: np.random.Generator) -> Photo:
        if not isinstance(self.faces, FaceFolder):
            return varied(self.faces[index], self.settings.size, rng)
        zoom = rng.uniform(1, self.settings.max_zoom) if rng.random() < 0.5 else 1.0
        crop = self.faces.crop(index, self.settings.size, zoom)
        return crop[:, ::-1] if rng.random() < 0.5 else crop

    def _plain(self, index: int) -> Photo:
        if isinstance(self.faces, FaceFolder):
            return self.faces.crop(index, self.settings.size)
        return wide_view(self.faces[index], self.settings.size)

    def _noise_levels(self, generator: torch.Generator) -> Tensor:
        count = self.settings.batch
        # Stratified: one level from each of `count` equal slices, which steadies the loss.
        quantile = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        log_sigma = self.settings.log_sigma_mean + self.settings.log_sigma_std * torch.special.ndtri(quantile.double())
        steps = torch.randint(len(self.schedule.sigmas), (count,), generator=generator)
        uniform = torch.rand(count, generator=generator) < self.settings.uniform_time_fraction
        sigmas = torch.where(uniform, self.schedule.sigmas[steps], log_sigma.exp())
        return sigmas.clamp(self.schedule.sigmas[0], self.schedule.sigmas[-1]).float()

    def held_out_images(self, count: int) -> Tensor:
        """The first ``count`` held-out faces, in [-1, 1]."""
        return _symmetric([self._plain(int(index)) for index in self.held_out[:count]])


def _symmetric(crops: list[Photo]) -> Tensor:
    return torch.from_numpy(to_floats(np.stack(crops))) * 2 - 1


class ViewBatches:
    """Views of faces in random order, each face once per epoch, except held-out ones."""

    def __init__(self, crops: Crops, settings: ViewTraining) -> None:
        self.train, held_out = hold_out(len(crops), settings.held_out, settings.batch, settings.seed)
        self.held_out = np.sort(held_out)
        self.crops, self.settings = crops, settings

    def __call__(self, step: int) -> Tensor:
        """The views of this step: (B, 3, S, S) in [0, 1]."""
        rng = np.random.default_rng((self.settings.seed, step))
        chosen = of_epoch(self.train, self.settings.batch, self.settings.seed, step)
        # Rotated and zoomed views are soft; without others, and sharpened ones, sharp photographs would
        # look perturbed.
        plain = rng.random(len(chosen)) < 0.5
        views = to_batch(
            [self._plain(i) if p else vary(self.crops[i], self.settings.size, rng) for i, p in zip(chosen, plain, strict=True)]
        )
        amounts = self.settings.sharpness * rng.random(len(views)) * (rng.random(len(views)) < 0.5)
        return sharpened(views, torch.from_numpy(amounts).float())

    def held_out_images(self) -> Tensor:
        """The held-out faces as they are, at the size of the views."""
        return to_batch([self._plain(index) for index in self.held_out])

    def _plain(self, index: int) -> Photo:
        size = (self.settings.size, self.settings.size)
        resized: Photo = cv2.resize(self.crops[index], size, interpolation=cv2.INTER_AREA)
        return resized


class WideBatches:
    """Views of wide crops in random order, for a purifier to learn from; each face once per epoch, except held-out ones."""

    def __init__(self, crops: Crops, settings: PurifierTraining) -> None:
        self.train, self.held_out = hold_out(len(crops), settings.held_out, settings.batch, settings.seed)
        self.crops, self.settings = crops, settings

    def __call__(self, step: int, *, again: bool = False) -> Tensor:
        """The views of this step: (B, 3, S, S) in [0, 1]; with ``again`` other views of the same faces."""
        settings = self.settings
        rng = np.random.default_rng((settings.seed, 3 if again else 2, step))
        crops = [self.crops[index] for index in of_epoch(self.train, settings.batch, settings.seed, step)]
        if again:  # none of them as it is
            return to_batch([by_camera(wide_view(crop, settings.size, rng), rng) for crop in crops])
        return to_batch([varied(crop, settings.size, rng) for crop in crops])

    def held_out_images(self) -> Tensor:
        """The held-out faces as they are: (N, 3, S, S) in [0, 1]."""
        return to_batch([wide_view(self.crops[index], self.settings.size) for index in self.held_out])


class Ahead(Generic[T]):
    """The batches of the next steps, made in threads while a device computes; the same ones, since a step makes its own."""

    def __init__(self, batches: Callable[[int], T], threads: int) -> None:
        self._batches, self._threads = batches, threads
        self._pool, self._waiting = ThreadPoolExecutor(threads), dict[int, Future[T]]()

    def __call__(self, step: int) -> T:
        """The batch of this step; those of the next ones are begun."""
        for number in range(step, step + self._threads + 1):
            if number not in self._waiting:
                self._waiting[number] = self._pool.submit(self._batches, number)
        return self._waiting.pop(step).result()


def ahead(batches: Callable[[int], T], device: torch.device) -> Callable[[int], T]:
    """``Ahead`` where the device is not the processor that makes the batches."""
    return batches if device.type == "cpu" else Ahead(batches, min(os.cpu_count() or 1, 16))


# --- of the recogniser -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from."""

    images: Tensor  # (B, 3, S, S) in [0, 1]
    labels: Tensor | None  # (B,)
    rows: Tensor | None  # (B, D), the teacher's


class DistillingBatches:
    """Crops in random order, each once per epoch, with the teacher's rows (N, D)."""

    validation: None = None  # nothing is held out

    def __init__(self, crops: Crops, rows: Tensor, settings: Distilling) -> None:
        if len(crops) < settings.batch:
            raise _too_few(len(crops), settings.batch)
        self.crops, self.rows, self.settings = crops, rows, settings
        self.per_epoch = len(crops) // settings.batch
        self.total = settings.epochs * self.per_epoch

    def size(self, step: int) -> int:
        """Side of the images in pixels: one for all steps."""
        return self.settings.size

    def rate(self, step: int) -> float:
        """Factor of the learning rate: constant, falling to a tenth over the last third."""
        return min(1.0, 0.1 + 2.7 * (self.total - step) / self.total)

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        rng = np.random.default_rng((self.settings.seed, step))
        chosen = of_epoch(np.arange(len(self.crops)), self.settings.batch, self.settings.seed, step)
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
        """Side of the images in pixels: it grows with the steps."""
        return self.settings.sizes[self._phase(step)]

    def rate(self, step: int) -> float:
        """Factor of the learning rate: a half cosine to zero over each size.

        A network that gets larger images must be able to change. Warm restarts as of Loshchilov and
        Hutter, "SGDR", ICLR 2017.
        """
        phase = self._phase(step)
        begun, ended = self.begins[phase], self.begins[phase + 1]
        return half_cosine(step - begun, ended - begun)

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


Batches = DistillingBatches | ClassifyingBatches


def split(labels: Indices, held_out: int, seed: int) -> tuple[Indices, Indices]:
    """Indices to train on, and of ``held_out`` images per person to choose the best weights by."""
    train, validation = [], []
    for person in range(int(labels.max()) + 1):
        own = np.random.default_rng((seed, 2, person)).permutation(np.flatnonzero(labels == person))
        if len(own) <= held_out:
            has = f"has {many(len(own), 'training image')}"
            raise InputError(has, f"person {person}", f"more than validation={held_out} are needed")
        validation.append(own[:held_out])
        train.append(own[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))
