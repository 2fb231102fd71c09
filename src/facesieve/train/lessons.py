"""Lessons on views of unlabelled faces: what one batch teaches the networks of DDSA, FaceGuard or a purifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from facesieve.data.crops import unlabelled_crops
from facesieve.hardware import choose_hardware
from facesieve.noise import derive_seed
from facesieve.progress import Progress, Report, silent
from facesieve.train.batches import ViewBatches, split_in_words
from facesieve.train.cards import DataCard, card
from facesieve.train.loop import Run, Task, finish, half_cosine, warm_up
from facesieve.train.settings import ViewTraining
from facesieve.weights import save_weights

CROP = 160  # pixels of the crops that are kept on disk


class Lesson(Protocol):
    """Networks, what one batch does to their gradients, and how well they do."""

    @property
    def networks(self) -> nn.Module:
        """All of them; gradients are clipped for each child separately: one must not drown the others."""

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Add the gradients of a batch (B, 3, S, S) in [0, 1]; returns its losses."""

    def measure(self, images: Tensor) -> dict[str, float]:
        """How well they do on held-out images, with the same random numbers every time."""


class ViewTask(Task):
    """A lesson with Adam on batches of views, its learning rate falling along a half cosine."""

    settings: ViewTraining
    may_change = frozenset({"steps"})

    def __init__(self, lesson: Lesson, views: ViewBatches, settings: ViewTraining) -> None:
        self.lesson, self.views, self.settings, self.total = lesson, views, settings, settings.steps
        self.hardware = choose_hardware(precision="fp32")
        lesson.networks.to(self.hardware.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = {"networks": lesson.networks}
        self.optimiser = torch.optim.Adam(lesson.networks.parameters(), settings.learning_rate, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """A linear warm-up, times a half cosine to 0."""
        return self.settings.learning_rate * warm_up(step, self.settings.warmup_steps) * half_cosine(step, self.total)

    def backward(self, step: int) -> dict[str, float]:
        """The lesson's, on the views of this step."""
        draws = torch.Generator().manual_seed(derive_seed(self.settings.seed, step))
        return self.lesson.backward(self.views(step).to(self.hardware.device), draws)

    def measure(self, step: int) -> dict[str, float]:
        """The lesson's, on the held-out faces."""
        return self.lesson.measure(self.views.held_out_images().to(self.hardware.device))

    def clipped(self) -> list[list[nn.Parameter]]:
        """Those of each network."""
        return [list(network.parameters()) for network in self.lesson.networks.children()]


def drawn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise like ``images``, drawn where the generator is."""
    return torch.randn(images.shape, generator=generator, device=generator.device).to(images.device)


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number in [low, high] for each image: (B, 1, 1, 1)."""
    return (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)).to(images.device)


def views_of(data: Path, out: Path, settings: ViewTraining, report: Report = silent) -> ViewBatches:
    """Views of the faces in a folder of photographs, whose crops are kept in ``out``. Raises ``InputError``."""
    return ViewBatches(unlabelled_crops(data, out, CROP, report), settings)


def train_defence(
    task: ViewTask,
    network: nn.Module,
    out: Path,
    about: dict[str, Any],
    data: DataCard,
    report: Report,
    **times: float,
) -> Path:
    """Train, or resume, a task in ``out``; returns the file with the weights of ``network``, next to its card.

    ``about`` has the card's first entries, among them the name; ``times`` are those of ``finish``.
    """
    run, faces = Run(task, out), split_in_words(task.views.train, task.views.held_out)
    size = sum(parameter.numel() for parameter in network.parameters())
    report(Progress(run.step, task.total, f"{faces}, {size / 1e6:.2f} M parameters, on {task.hardware}; {data}"))
    held_out = finish(run, report, **times)
    about = {**about, "data": f"{faces}; {data.what}, aligned to the template", **run.made}
    figures = {"held_out": {measure: round(value, 6) for measure, value in held_out.items()}}
    weights = out / f"{about['name']}.safetensors"
    save_weights(network, weights, card(about, data, task.settings, run.seconds, figures, LIMITS))
    return weights


LIMITS = (
    "A short training. Faces far from the data (children, strong occlusion, extreme pose or light) are restored worse. "
    "It was not checked that it treats groups of people alike. An attack that sees the network gets past it more easily."
)
