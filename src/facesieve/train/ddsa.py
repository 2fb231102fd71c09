"""Train the denoising sparse autoencoder on unlabelled faces."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from facesieve.defences.ddsa import SparseAutoencoder, sparsity
from facesieve.progress import Report, silent
from facesieve.train.cards import DataCard
from facesieve.train.lessons import ViewTask, drawn, train_defence, uniform, views_of
from facesieve.train.loop import CHECKPOINT_MINUTES
from facesieve.train.settings import DdsaTraining


class DdsaLesson:
    """Clean patches from noised ones, by a sparse code."""

    def __init__(self, settings: DdsaTraining) -> None:
        self.settings = settings
        torch.manual_seed(settings.seed)
        self.network = self.networks = SparseAutoencoder()

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Mean squared error, and the penalty on the code."""
        room = self.settings.size - self.settings.patch + 1
        tops, lefts = torch.randint(room, (2, len(images)), generator=generator).tolist()
        side = self.settings.patch
        cut = [image[:, top : top + side, left : left + side] for image, top, left in zip(images, tops, lefts, strict=True)]
        patches = torch.stack(cut)
        noised = patches + uniform(patches, 0, self.settings.noise, generator) * drawn(patches, generator)
        code = self.network.encode(noised)
        error = functional.mse_loss(self.network.decode(code), patches)
        penalty = sparsity(code, self.settings.active)
        (error + self.settings.sparsity_weight * penalty).backward()  # type: ignore[no-untyped-call]
        return {"squared_error": error.item(), "sparsity": penalty.item()}

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, float]:
        """Mean squared errors before and after, at half of the strongest noise."""
        noised = images + self.settings.noise / 2 * drawn(images, torch.Generator().manual_seed(1))
        restored = torch.cat([self.network(part) for part in torch.split(noised, 16)]).clamp(0, 1)
        before = functional.mse_loss(noised.clamp(0, 1), images)
        return {"noised_error": before.item(), "restored_error": functional.mse_loss(restored, images).item()}


def train_ddsa(
    data: Path,
    out: Path,
    settings: DdsaTraining,
    *,
    data_card: Path | None = None,
    report: Report = silent,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    stop_after_minutes: float = math.inf,
) -> Path:
    """Train, or resume, the autoencoder of ``Ddsa`` on a folder of photographs with one face each; returns its weights.

    ``out`` keeps ``checkpoint.pt``, ``curve.csv`` and ``held-out.csv``, and gets the weights with their card. ``data_card``
    is a TOML file with the terms of the photographs; without one, ``DATA.toml`` in ``data`` is read. Raises ``InputError`` for
    a folder with too few faces, ``SettingError`` where the run in ``out`` began with other settings; only ``steps`` may change.
    """
    stated = DataCard.of(data_card, data)
    lesson = DdsaLesson(settings)
    task = ViewTask(lesson, views_of(data, out, settings, report), settings)
    times = {"checkpoint_minutes": checkpoint_minutes, "stop_after_minutes": stop_after_minutes}
    return train_defence(task, lesson.network, out, _ABOUT, stated, report, **times)


_ABOUT = {
    "name": "ddsa",
    "what": "a denoising sparse autoencoder for faces aligned to the template of facesieve.faces; RGB in [0, 1], any size",
    "source": "after Bakhti et al., DDSA, IEEE Access 2019",
}

__all__ = ["DdsaLesson", "DdsaTraining", "train_ddsa"]
